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

from tests.answering import Act, answering
from tests.interrupting import (
    DOWNLOAD,
    KEYS,
    LEFT,
    PATIENT,
    RESUMED,
    ROWS,
    begun,
    interrupt,
    lose,
    read,
    rows_of_journal,
    run,
    written_keys,
)
from tests.keyed import KEY, keyed, wire
from tests.waiting import wait_until
from valetkey.identity import written
from valetkey.messages import DEFAULT_CHUNK
from worker.embedded.broker import valkey


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
    with answering(broker, lose(2)) as service:
        result = run(*DOWNLOAD)
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"{LEFT}: run the same command with --resume to go on" in result.stderr
    assert [row["key"] for row in read("links.csv.partial")] == KEYS[: 2 * DEFAULT_CHUNK]
    with answering(broker) as again:
        assert run(*RESUMED).exit_code == 0
    assert [row["key"] for row in read("links.csv")] == KEYS
    assert [row["url"] for row in read("links.csv")] == [
        f"http://127.0.0.1/reports/{number}" for number in range(ROWS)
    ]
    ((_, message),) = again.arrived
    assert (message["batch"], message["chunk"]) == (service.arrived[0][1]["batch"], 2)
    assert {path.name for path in Path().iterdir() if path.is_file()} == {"keys.txt", "links.csv"}


def test_what_an_interrupted_run_leaves_is_its_owners_alone(broker: str) -> None:
    with answering(broker, interrupt):
        run(*PATIENT)
    for name in ("links.csv.partial", "links.csv.resume.json"):
        assert stat.S_IMODE(Path(name).stat().st_mode) == 0o600


def test_ctrl_c_is_exit_130_and_leaves_what_can_be_gone_on_with(broker: str) -> None:
    with answering(broker, interrupt):
        result = run(*PATIENT)
    rows = read("links.csv.partial")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == (
        f"interrupted; {len(rows):,} of {ROWS:,} rows are in links.csv.partial: "
        "run the same command with --resume to go on\n"
    )
    with answering(broker):
        assert run(*RESUMED).exit_code == 0
    assert [row["key"] for row in read("links.csv")] == KEYS


def test_ctrl_c_of_what_has_no_file_says_no_more(broker: str) -> None:
    def interrupting(_message: dict[str, Any], _: int) -> Act:
        os.kill(os.getpid(), signal.SIGINT)
        return "lose"

    with answering(broker, interrupting):
        result = run("download", "reports", "a")
    assert (result.exit_code, result.output) == (130, "interrupted\n")


@pytest.mark.usefixtures("broker")
def test_a_broker_that_is_lost_is_an_error_in_time_and_leaves_what_can_be_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with valkey(tmp_path / "before") as server, answering(server.url(), lose(2)):
        monkeypatch.setenv("VALETKEY_BROKER_URL", server.url())
        process = begun(*DOWNLOAD, "--timeout", "5s", stderr=subprocess.PIPE)
        wait_until(lambda: rows_of_journal() == 2 * DEFAULT_CHUNK)
    _, said = process.communicate(timeout=15)
    assert process.returncode == 3
    assert f"no result store answers at {server.url(1)}" in said
    assert f"{LEFT}: run the same command with --resume to go on" in said
    with valkey(tmp_path / "after", server.port) as again, answering(again.url()):
        assert run(*RESUMED).exit_code == 0
    assert [row["key"] for row in read("links.csv")] == KEYS


def test_a_run_that_is_killed_is_gone_on_with_without_a_row_twice(broker: str) -> None:
    keys = [f"acme/{n}" for n in range(10_000)]
    written_keys(keys)
    with answering(broker, lose(10)) as service, begun(*PATIENT) as process:
        wait_until(lambda: rows_of_journal() >= 2 * DEFAULT_CHUNK)
        process.kill()
    assert not Path("links.csv").exists()
    before = rows_of_journal()
    assert before < len(keys)
    with answering(broker) as again:
        assert run(*RESUMED).exit_code == 0
    assert [row["key"] for row in read("links.csv")] == keys
    assert len({row["id"] for row in read("links.csv")}) == len(keys)
    assert len({message["batch"] for _, message in (*service.arrived, *again.arrived)}) == 1
    arrivals = service.arrivals + again.arrivals
    twice = [name for name, times in arrivals.items() if times > 1]
    assert all(int(name.partition(".")[2]) * DEFAULT_CHUNK >= before for name in twice)


def test_what_was_granted_before_an_interruption_is_charged_once(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_KEY", written(KEY))

    def interrupting(message: dict[str, Any], arrival: int) -> Act:
        if message.get("chunk") == 2 and arrival == 1:
            os.kill(os.getpid(), signal.SIGINT)  # and yet it is decided, and charged
        return "answer"

    with keyed(tmp_path) as service, answering(broker, interrupting, wire(service)) as wired:
        assert run(*PATIENT).exit_code == 130
        assert run(*RESUMED).exit_code == 0
        (quota,) = map(json.loads, run("usage", "--json").stdout.splitlines())
    assert max(wired.arrivals.values()) > 1
    assert quota["used"] == ROWS == len({row["url"] for row in read("links.csv")})
