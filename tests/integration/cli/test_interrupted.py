"""Runs that are interrupted in different ways and then resumed."""

import json
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders.keyed_service import KEY, running_keyed_service, wire_result
from tests.support.cli.interrupted_download import (
    DOWNLOAD,
    DOWNLOAD_SHORT_TIMEOUT,
    KEYS,
    RESUME_DOWNLOAD,
    ROWS,
    TWO_CHUNKS_WRITTEN,
    interrupt_third_chunk,
    journal_rows,
    lose_chunk,
    read_csv,
    run_cli,
    start_download,
    write_keys,
)
from tests.support.fakes.fake_service import Action, running_fake_service
from tests.support.servers.waiting import wait_until
from valetkey.crypto.keys import dump_private_key
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS
from worker.devstack.broker import running_valkey

pytestmark = pytest.mark.usefixtures("keys_file")


def test_an_interrupted_run_explains_how_to_resume_and_can_be_resumed(broker: str) -> None:
    with running_fake_service(broker, lose_chunk(2)) as service:
        result = run_cli(*DOWNLOAD_SHORT_TIMEOUT)
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"{TWO_CHUNKS_WRITTEN}: run the same command with --resume to continue" in result.stderr
    assert [row["key"] for row in read_csv("links.csv.partial")] == KEYS[: 2 * DEFAULT_CHUNK_ITEMS]
    with running_fake_service(broker) as again:
        assert run_cli(*RESUME_DOWNLOAD).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == KEYS
    assert [row["url"] for row in read_csv("links.csv")] == [
        f"http://127.0.0.1/reports/{number}" for number in range(ROWS)
    ]
    ((_, message),) = again.received
    assert (message["batch"], message["chunk"]) == (service.received[0][1]["batch"], 2)
    assert {path.name for path in Path().iterdir() if path.is_file()} == {"keys.txt", "links.csv"}


def test_only_its_owner_may_read_the_files_of_an_interrupted_run(broker: str) -> None:
    with running_fake_service(broker, interrupt_third_chunk):
        run_cli(*DOWNLOAD)
    for name in ("links.csv.partial", "links.csv.resume.json"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600


def test_ctrl_c_is_exit_130_and_the_run_can_be_resumed(broker: str) -> None:
    with running_fake_service(broker, interrupt_third_chunk):
        result = run_cli(*DOWNLOAD)
    rows = read_csv("links.csv.partial")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == (
        f"interrupted; {len(rows):,} of {ROWS:,} rows are in links.csv.partial: "
        "run the same command with --resume to continue\n"
    )
    with running_fake_service(broker):
        assert run_cli(*RESUME_DOWNLOAD).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == KEYS


def test_ctrl_c_without_an_output_file_prints_no_hint(broker: str) -> None:
    def press_ctrl_c(_message: dict[str, Any], _: int) -> Action:
        os.kill(os.getpid(), signal.SIGINT)
        return "lose"

    with running_fake_service(broker, press_ctrl_c):
        result = run_cli("download", "reports", "a")
    assert (result.exit_code, result.output) == (130, "interrupted\n")


@pytest.mark.usefixtures("broker")
def test_a_lost_broker_is_exit_3_in_time_and_the_run_can_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        running_valkey(tmp_path / "before") as server,
        running_fake_service(server.url(), lose_chunk(2)),
    ):
        monkeypatch.setenv("VALETKEY_BROKER_URL", server.url())
        process = start_download(*DOWNLOAD_SHORT_TIMEOUT, "--timeout", "5s", stderr=subprocess.PIPE)
        wait_until(lambda: journal_rows() == 2 * DEFAULT_CHUNK_ITEMS)
    _, errors = process.communicate(timeout=15)
    assert process.returncode == 3
    assert f"cannot use the broker at {server.url()}" in errors
    assert f"{TWO_CHUNKS_WRITTEN}: run the same command with --resume to continue" in errors
    with (
        running_valkey(tmp_path / "after", server.port) as again,
        running_fake_service(again.url()),
    ):
        assert run_cli(*RESUME_DOWNLOAD).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == KEYS


def test_a_killed_run_is_resumed_without_duplicate_rows(broker: str) -> None:
    keys = [f"acme/{n}" for n in range(10_000)]
    write_keys(keys)
    with (
        running_fake_service(broker, lose_chunk(10)) as service,
        start_download(*DOWNLOAD) as process,
    ):
        wait_until(lambda: journal_rows() >= 2 * DEFAULT_CHUNK_ITEMS)
        process.kill()
    assert not Path("links.csv").exists()
    before = journal_rows()
    assert before < len(keys)
    with running_fake_service(broker) as again:
        assert run_cli(*RESUME_DOWNLOAD).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == keys
    assert len({row["id"] for row in read_csv("links.csv")}) == len(keys)
    assert len({message["batch"] for _, message in (*service.received, *again.received)}) == 1
    arrivals = service.arrivals + again.arrivals
    repeated = [name for name, count in arrivals.items() if count > 1]
    assert all(int(name.partition(".")[2]) * DEFAULT_CHUNK_ITEMS >= before for name in repeated)


def test_grants_before_an_interruption_are_charged_once(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_KEY", dump_private_key(KEY))

    def press_ctrl_c(message: dict[str, Any], arrival: int) -> Action:
        if message.get("chunk") == 2 and arrival == 1:
            os.kill(os.getpid(), signal.SIGINT)  # the service still decides and charges it
        return "answer"

    with (
        running_keyed_service(tmp_path) as keyed_service,
        running_fake_service(broker, press_ctrl_c, wire_result(keyed_service)) as service,
    ):
        assert run_cli(*DOWNLOAD).exit_code == 130
        assert run_cli(*RESUME_DOWNLOAD).exit_code == 0
        (quota,) = map(json.loads, run_cli("usage", "--json").stdout.splitlines())
    assert max(service.arrivals.values()) > 1
    assert quota["used"] == ROWS == len({row["url"] for row in read_csv("links.csv")})
