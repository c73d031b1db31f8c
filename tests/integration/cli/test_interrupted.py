"""Runs that are interrupted, by whatever, and gone on with."""

import json
import os
import signal
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.builders.keyed_service import KEY, running_keyed_service, wire_result
from tests.support.cli.interrupted_download import (
    DOWNLOAD,
    KEYS,
    LEFT,
    PATIENT,
    RESUMED,
    ROWS,
    interrupt,
    journal_rows,
    lose_after,
    read_csv,
    run_cli,
    start_download,
    written_keys,
)
from tests.support.fakes.fake_service import Act, running_fake_service
from tests.support.servers.waiting import wait_until
from valetkey.crypto.keys import dump_private_key
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS
from worker.devstack.broker import running_valkey


@pytest.fixture
def broker(valkey_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    with redis.Redis.from_url(valkey_url) as server:
        server.flushall()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALETKEY_BROKER_URL", valkey_url)
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    monkeypatch.setenv("VALETKEY_REQUESTED_BY", "tests")
    written_keys(KEYS)
    return valkey_url


def test_an_interrupted_run_says_how_to_go_on_and_does(broker: str) -> None:
    with running_fake_service(broker, lose_after(2)) as service:
        result = run_cli(*DOWNLOAD)
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"{LEFT}: run the same command with --resume to go on" in result.stderr
    assert [row["key"] for row in read_csv("links.csv.partial")] == KEYS[: 2 * DEFAULT_CHUNK_ITEMS]
    with running_fake_service(broker) as again:
        assert run_cli(*RESUMED).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == KEYS
    assert [row["url"] for row in read_csv("links.csv")] == [
        f"http://127.0.0.1/reports/{number}" for number in range(ROWS)
    ]
    ((_, message),) = again.arrived
    assert (message["batch"], message["chunk"]) == (service.arrived[0][1]["batch"], 2)
    assert {path.name for path in Path().iterdir() if path.is_file()} == {"keys.txt", "links.csv"}


def test_what_an_interrupted_run_leaves_is_its_owners_alone(broker: str) -> None:
    with running_fake_service(broker, interrupt):
        run_cli(*PATIENT)
    for name in ("links.csv.partial", "links.csv.resume.json"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600


def test_ctrl_c_is_exit_130_and_leaves_what_can_be_gone_on_with(broker: str) -> None:
    with running_fake_service(broker, interrupt):
        result = run_cli(*PATIENT)
    rows = read_csv("links.csv.partial")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == (
        f"interrupted; {len(rows):,} of {ROWS:,} rows are in links.csv.partial: "
        "run the same command with --resume to go on\n"
    )
    with running_fake_service(broker):
        assert run_cli(*RESUMED).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == KEYS


def test_ctrl_c_of_what_has_no_file_says_no_more(broker: str) -> None:
    def interrupting(_message: dict[str, Any], _: int) -> Act:
        os.kill(os.getpid(), signal.SIGINT)
        return "lose"

    with running_fake_service(broker, interrupting):
        result = run_cli("download", "reports", "a")
    assert (result.exit_code, result.output) == (130, "interrupted\n")


@pytest.mark.usefixtures("broker")
def test_a_broker_that_is_lost_is_an_error_in_time_and_leaves_what_can_be_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        running_valkey(tmp_path / "before") as server,
        running_fake_service(server.url(), lose_after(2)),
    ):
        monkeypatch.setenv("VALETKEY_BROKER_URL", server.url())
        process = start_download(*DOWNLOAD, "--timeout", "5s", stderr=subprocess.PIPE)
        wait_until(lambda: journal_rows() == 2 * DEFAULT_CHUNK_ITEMS)
    _, said = process.communicate(timeout=15)
    assert process.returncode == 3
    assert f"no result store answers at {server.url(1)}" in said
    assert f"{LEFT}: run the same command with --resume to go on" in said
    with (
        running_valkey(tmp_path / "after", server.port) as again,
        running_fake_service(again.url()),
    ):
        assert run_cli(*RESUMED).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == KEYS


def test_a_run_that_is_killed_is_gone_on_with_without_a_row_twice(broker: str) -> None:
    keys = [f"acme/{n}" for n in range(10_000)]
    written_keys(keys)
    with (
        running_fake_service(broker, lose_after(10)) as service,
        start_download(*PATIENT) as process,
    ):
        wait_until(lambda: journal_rows() >= 2 * DEFAULT_CHUNK_ITEMS)
        process.kill()
    assert not Path("links.csv").exists()
    before = journal_rows()
    assert before < len(keys)
    with running_fake_service(broker) as again:
        assert run_cli(*RESUMED).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == keys
    assert len({row["id"] for row in read_csv("links.csv")}) == len(keys)
    assert len({message["batch"] for _, message in (*service.arrived, *again.arrived)}) == 1
    arrivals = service.arrivals + again.arrivals
    twice = [name for name, times in arrivals.items() if times > 1]
    assert all(int(name.partition(".")[2]) * DEFAULT_CHUNK_ITEMS >= before for name in twice)


def test_what_was_granted_before_an_interruption_is_charged_once(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_KEY", dump_private_key(KEY))

    def interrupting(message: dict[str, Any], arrival: int) -> Act:
        if message.get("chunk") == 2 and arrival == 1:
            os.kill(os.getpid(), signal.SIGINT)  # and yet it is decided, and charged
        return "answer"

    with (
        running_keyed_service(tmp_path) as service,
        running_fake_service(broker, interrupting, wire_result(service)) as wired,
    ):
        assert run_cli(*PATIENT).exit_code == 130
        assert run_cli(*RESUMED).exit_code == 0
        (quota,) = map(json.loads, run_cli("usage", "--json").stdout.splitlines())
    assert max(wired.arrivals.values()) > 1
    assert quota["used"] == ROWS == len({row["url"] for row in read_csv("links.csv")})
