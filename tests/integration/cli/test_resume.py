"""Runs that --resume continues, and those that it refuses."""

import json
import os
import shlex
import signal
import subprocess
import sys
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
    Plan,
    interrupt_chunk,
    journal_rows,
    lose_chunk,
    run_cli,
    start_download,
    write_keys,
)
from tests.support.cli.producer_commands import Cli, read_csv
from tests.support.fakes.fake_service import Action, running_fake_service
from tests.support.servers.programs import run_program
from tests.support.servers.waiting import wait_until
from valetkey.cli.terminal_text import program_command
from valetkey.crypto.keys import dump_private_key
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS
from worker.dev.embedded_servers import running_valkey

# Ctrl-C may come between the creation of a coroutine and its start. The commands filter the warning
# for their process; here it comes later.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# Ctrl-C leaves sockets to the deletion of their connections, which closes them in any order.

JOURNAL, PARTIAL = Path("links.csv.resume.json"), Path("links.csv.partial")


def test_refusals_before_the_interruption_count_in_a_resumed_run(cli: Cli) -> None:
    write_keys(["no/1", "", *KEYS])
    cli(*DOWNLOAD_SHORT_TIMEOUT, plan=lose_chunk(2))
    assert cli(*RESUME_DOWNLOAD).exit_code == 1
    refused = [row["refused"] for row in read_csv("links.csv")]
    assert refused[:3] == ["key_outside_prefix", "key_empty", ""]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("checkpoint", [-1, 0, 0, None, 0, None]),
        ("checkpoint", [0, -1, 0, None, 0, None]),
        ("checkpoint", [10**9, 0, 0, None, 0, None]),
        ("checkpoint", [0, 10**40, 0, None, 0, None]),
        ("checkpoint", [0, 0, 0, None, 0, {"x": 1}]),
        ("checkpoint", [0, 0, 0, None, 0, {"60": {"-1": 1}}]),
        ("batch_plan", [[["batch-1"]], 0, 1]),
        ("batch_plan", [[["batch-1"]], 100_000, 0]),
        ("batch_plan", [[], 100_000, 1_000]),
        ("batch_plan", [[[]], 100_000, 1_000]),
        ("kept_bytes", -1),
        ("request", {"output_format": []}),
        ("request", {"\x1b[2J": 1}),
    ],
)
def test_a_changed_journal_is_refused_and_the_rows_are_kept(
    interrupted: Cli, name: str, value: Any
) -> None:
    rows = PARTIAL.read_bytes()
    changed = json.dumps(json.loads(JOURNAL.read_bytes()) | {name: value, "is_finished": False})
    JOURNAL.write_text(changed, encoding="utf-8")
    assert "\x1b" not in interrupted.refuses(*RESUME_DOWNLOAD)
    assert PARTIAL.read_bytes() == rows
    assert JOURNAL.read_text(encoding="utf-8") == changed


def test_the_journal_of_a_finished_run_with_a_list_for_its_format_is_no_traceback(
    interrupted: Cli,
) -> None:
    values = json.loads(JOURNAL.read_bytes()) | {"is_finished": True}
    values["request"]["output_format"] = ["csv"]
    JOURNAL.write_text(json.dumps(values), encoding="utf-8")
    interrupted.refuses(*RESUME_DOWNLOAD)


pytestmark = pytest.mark.usefixtures("keys_file")


@pytest.mark.parametrize(
    ("words", "plan", "exit_code"),
    [(DOWNLOAD_SHORT_TIMEOUT, lose_chunk(2), 3), (DOWNLOAD, interrupt_chunk(2), 130)],
    ids=["time-out", "Ctrl-C"],
)
def test_an_interrupted_run_explains_how_to_resume_and_can_be_resumed(
    cli: Cli, words: tuple[str, ...], plan: Plan, exit_code: int
) -> None:
    result = cli(*words, plan=plan)
    rows = [row["key"] for row in read_csv("links.csv.partial")]
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert result.stderr.endswith(
        f"{len(rows):,} of {ROWS:,} rows are in links.csv.partial: "
        "the next command continues\n"
        f"Next: {program_command('valetkey')} {' '.join(words)} --resume\n"
    )
    assert rows == KEYS[: len(rows)]
    batch = cli.messages[0]["batch"]
    assert cli(*RESUME_DOWNLOAD).exit_code == 0
    assert [(row["key"], row["url"]) for row in read_csv("links.csv")] == [
        (key, f"http://127.0.0.1/reports/{number}") for number, key in enumerate(KEYS)
    ]
    chunks = range(len(rows) // DEFAULT_CHUNK_ITEMS, 3)
    requested = [(message["batch"], message["chunk"]) for message in cli.messages]
    assert requested == [(batch, chunk) for chunk in chunks]
    assert {path.name for path in Path().iterdir() if path.is_file()} == {"keys.txt", "links.csv"}


def test_the_command_that_resumes_is_quoted_for_a_shell_and_replaces_force(cli: Cli) -> None:
    words = ("download", "demo", "--from", "keys.txt", "--out", "it's mine.csv", "--force")
    result = cli(*words, plan=interrupt_chunk(1))
    *_, command = result.stderr.splitlines()
    printed = shlex.split(command.removeprefix("Next: "))
    assert printed[1:] == [*words[:-1], "--resume"]


def test_ctrl_c_without_an_output_file_prints_no_hint(cli: Cli) -> None:
    result = cli("download", "reports", "a", plan=interrupt_chunk(0))
    assert (result.exit_code, result.output) == (130, "interrupted\n")


INTERRUPTED_BEFORE_START = """
import sys
from valetkey import blocking
from valetkey.cli.main import main

def interrupt(frame, event, _):
    if event == "call" and frame.f_code is blocking.run.__code__:
        sys.setprofile(None)
        raise KeyboardInterrupt

sys.setprofile(interrupt)
main(["download", "reports", "a"])
"""


def test_ctrl_c_before_a_request_starts_prints_no_warning() -> None:
    environ = {
        **os.environ,
        "VALETKEY_TENANT": "acme",
        "VALETKEY_BROKER_URL": "redis://127.0.0.1:1",
    }
    command = [sys.executable, "-c", INTERRUPTED_BEFORE_START]
    completed = run_program(command, env=environ)
    assert (completed.returncode, completed.stderr) == (130, "interrupted\n")


@pytest.mark.slow
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
    assert f"{TWO_CHUNKS_WRITTEN}: the next command continues\nNext: " in errors
    with (
        running_valkey(tmp_path / "after", server.port) as again,
        running_fake_service(again.url()),
    ):
        assert run_cli(*RESUME_DOWNLOAD).exit_code == 0
    assert [row["key"] for row in read_csv("links.csv")] == KEYS


@pytest.mark.slow
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
