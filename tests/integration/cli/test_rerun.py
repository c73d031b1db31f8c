"""Runs over an output that exists already: nothing that was charged is lost or charged again."""

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli.interrupted_download import interrupt_chunk, lose_chunk
from tests.support.cli.producer_commands import Cli, read_csv
from tests.support.fakes.fake_service import describe_today, grant_outcome
from valetkey.cli.commands import bulk_request
from valetkey.cli.terminal_text import program_command
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

# Ctrl-C leaves sockets to the deletion of their connections, which closes them in any order.

DOWNLOAD = ("download", "reports", "--from", "keys.csv", "--out", "links.csv")
RESUME = (*DOWNLOAD, "--resume")
SINGLE = ("download", "reports", "a", "--out", "links.csv")
ROWS = "key,mail\na,a@x\nno/b,b@x\nc,c@x\n,d@x\nno/e,e@x\n"
INPUT, OUTPUT, JOURNAL = Path("keys.csv"), Path("links.csv"), Path("links.csv.resume.json")


@pytest.fixture
def finished(cli: Cli) -> Cli:
    """A finished run whose output has two grants and three refusals."""
    INPUT.write_text(ROWS)
    assert cli(*DOWNLOAD).exit_code == 1
    return cli


@pytest.fixture
def complete(cli: Cli) -> Cli:
    """A finished run whose output has two grants."""
    INPUT.write_text("key\na\nb\n")
    assert cli(*DOWNLOAD).exit_code == 0
    return cli


def allow_all(message: dict[str, Any]) -> dict[str, Any]:
    """Grant the items that the fake service refuses otherwise."""
    items = [item | {"key": item["key"].replace("no/", "now/")} for item in message["items"]]
    outcome = grant_outcome(message | {"items": items})
    for result, item in zip(outcome["items"], message["items"], strict=True):
        result["key"] = item["key"]
    return outcome


def test_a_finished_output_is_not_overwritten(finished: Cli) -> None:
    before = OUTPUT.read_bytes()
    error = finished.refuses(*DOWNLOAD)
    assert "links.csv exists, written 20" in error
    assert "with 2 granted (charged), 3 refused (not charged); nothing was requested" in error
    assert "--resume to request the 3 refused rows alone, or --force" in error
    assert OUTPUT.read_bytes() == before


def test_force_requests_everything_again(finished: Cli) -> None:
    assert finished(*DOWNLOAD, "--force").exit_code == 1
    assert [message["total"] for message in finished.messages] == [4]


def press_ctrl_c(message: dict[str, Any]) -> dict[str, Any]:
    """Interrupt the command, and describe the service as usual."""
    os.kill(os.getpid(), signal.SIGINT)
    return describe_today(message)


def interrupt_scan(*_: object) -> None:
    raise KeyboardInterrupt


def test_a_replacing_run_that_was_interrupted_before_its_first_row_is_started_over(
    complete: Cli,
) -> None:
    before = OUTPUT.read_bytes()
    result = complete(*DOWNLOAD, "--force", describe=press_ctrl_c)
    assert (result.exit_code, complete.messages) == (130, [])
    assert "no row was requested, and links.csv is still that of an earlier run\n" in result.stderr
    command = f"{program_command('valetkey')} {' '.join(RESUME)}"
    assert result.stderr.endswith(f"\nNext: {command}\n")
    assert OUTPUT.read_bytes() == before
    assert complete(*RESUME).exit_code == 0
    assert [message["total"] for message in complete.messages] == [2]
    assert OUTPUT.read_bytes() != before
    assert {path.name for path in Path().iterdir()} == {"keys.csv", "links.csv"}


def test_a_replacing_run_that_was_interrupted_while_it_read_its_input_is_started_over(
    complete: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(bulk_request, "scan_input", interrupt_scan)
        assert complete(*DOWNLOAD, "--force").exit_code == 130
    assert complete(*RESUME).exit_code == 0
    assert [message["total"] for message in complete.messages] == [2]


def test_a_resumed_replacement_requests_more_than_the_rows_that_were_refused(
    finished: Cli,
) -> None:
    assert finished(*DOWNLOAD, "--force", describe=press_ctrl_c).exit_code == 130
    assert "belongs to an interrupted run: add --resume" in finished.refuses(*DOWNLOAD)
    assert finished(*RESUME).exit_code == 1
    assert [message["total"] for message in finished.messages] == [4]


def test_a_replacing_run_with_a_wrong_input_changes_nothing(complete: Cli) -> None:
    INPUT.write_text("key\na\n''\n,\n")
    assert "nothing was requested" in complete.refuses(*DOWNLOAD, "--force", "--strict")
    INPUT.write_text("key\na\nb\n")
    assert "links.csv is complete" in complete(*RESUME).stderr
    assert {path.name for path in Path().iterdir()} == {"keys.csv", "links.csv"}


def test_only_the_refused_rows_are_requested_again(finished: Cli) -> None:
    before = OUTPUT.read_text().splitlines()
    result = finished(*RESUME, decide=allow_all)
    (message,) = finished.messages
    assert [item["key"] for item in message["items"]] == ["no/b", "no/e"]
    assert message["batch"] not in before[1]
    after = OUTPUT.read_text().splitlines()
    assert [after[number] for number in (0, 1, 3, 4)] == [before[n] for n in (0, 1, 3, 4)]
    assert [(row["key"], row["mail"], row["charged"]) for row in read_csv("links.csv")] == [
        ("a", "a@x", "yes"),
        ("no/b", "b@x", "yes"),
        ("c", "c@x", "yes"),
        ("", "d@x", "no"),
        ("no/e", "e@x", "yes"),
    ]
    summary = "4 granted (charged, 2 of them now), 1 refused (not charged: 1 key_empty)"
    assert summary in result.stderr


def test_refused_rows_are_requested_until_they_are_granted(cli: Cli) -> None:
    INPUT.write_text("key\na\nno/b\n")
    for words in (DOWNLOAD, RESUME, RESUME):
        assert cli(*words).exit_code == 1
    assert cli(*RESUME, decide=allow_all).exit_code == 0
    assert len(cli.messages) == 1
    assert {path.name for path in Path().iterdir()} == {"keys.csv", "links.csv"}


def test_a_complete_output_is_not_requested_again(complete: Cli) -> None:
    result = complete(*RESUME)
    assert (result.exit_code, complete.messages) == (0, [])
    assert (
        result.stderr == "links.csv is complete: 2 granted, none refused; nothing was requested\n"
    )


@pytest.mark.parametrize("rows", ["key\na\n", "key\na\nb\nc\n", "key\na\nx\n"])
def test_a_complete_output_of_another_input_is_refused(complete: Cli, rows: str) -> None:
    INPUT.write_text(rows)
    assert "links.csv is complete, but not the output of this input" in complete.refuses(*RESUME)


def test_if_all_refused_rows_are_invalid_there_is_nothing_to_resume(cli: Cli) -> None:
    INPUT.write_text("key,mail\na,a@x\n,b@x\n")
    cli(*DOWNLOAD)
    assert not JOURNAL.exists()
    assert "request its missing rows from a file of their own" in cli.refuses(*RESUME)


def append_row() -> None:
    INPUT.write_text(ROWS + "z,z@x\n")


def edit_output() -> None:
    OUTPUT.write_text(f"{OUTPUT.read_text()}more")


def swap_rows() -> None:
    heading, first, *rows = OUTPUT.read_text().splitlines(keepends=True)
    OUTPUT.write_text("".join((heading, *rows, first)))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (append_row, "was started with a different input: it has changed since"),
        (edit_output, "was changed since it was written"),
        (swap_rows, "was changed since it was written"),
        (OUTPUT.unlink, "no interrupted run to resume: links.csv does not exist"),
    ],
)
def test_another_input_or_output_is_not_resumed(
    finished: Cli, change: Callable[[], None], error: str
) -> None:
    change()
    assert error in finished.refuses(*RESUME)


def test_an_interrupted_retry_leaves_the_output_and_can_be_resumed(cli: Cli) -> None:
    keys = [f"no/{n}" if n % 2 else f"k/{n}" for n in range(4 * DEFAULT_CHUNK_ITEMS)]
    INPUT.write_text("key\n" + "".join(f"{key}\n" for key in keys))
    cli(*DOWNLOAD)
    before = OUTPUT.read_bytes()
    assert cli(*RESUME, plan=interrupt_chunk(1), decide=allow_all).exit_code == 130
    batches = {message["batch"] for message in cli.messages}
    assert OUTPUT.read_bytes() == before
    hint = "belongs to an interrupted run: add --resume to continue it, or --force"
    assert hint in cli.refuses(*DOWNLOAD)
    assert cli(*RESUME, decide=allow_all).exit_code == 0
    rows = read_csv("links.csv")
    assert [row["key"] for row in rows] == keys
    assert len({row["id"] for row in rows}) == len(keys)
    assert len(batches | {message["batch"] for message in cli.messages}) == 1
    assert not JOURNAL.exists()


def test_a_run_that_was_killed_before_its_output_had_its_name_is_finished(finished: Cli) -> None:
    OUTPUT.rename("links.csv.partial")
    assert "links.csv exists" in finished.refuses(*DOWNLOAD)
    assert len(read_csv("links.csv")) == 5


@pytest.mark.usefixtures("finished")
def test_the_journal_of_a_finished_run_is_private_and_has_no_secret() -> None:
    assert stat.S_IMODE(JOURNAL.stat().st_mode) == 0o600
    assert "http" not in JOURNAL.read_text()


def test_the_journal_of_an_output_that_was_moved_away_hinders_no_new_run(finished: Cli) -> None:
    OUTPUT.rename("sent.csv")
    assert finished(*DOWNLOAD).exit_code == 1
    OUTPUT.unlink()
    assert finished(*SINGLE).exit_code == 0
    assert not JOURNAL.exists()


@pytest.mark.parametrize(
    "command",
    [
        ("download", "reports", "a"),
        ("upload", "inbox", "a", "--max-size", "5MB"),
        ("put", "inbox", "a", "--size", "5"),
        ("multipart", "inbox", "a", "--size", "5MiB"),
    ],
)
def test_the_output_of_a_single_request_is_not_overwritten(
    cli: Cli, command: tuple[str, ...]
) -> None:
    words = (*command, "--out", "out.jsonl")
    assert cli(*words).exit_code == 0
    before = Path("out.jsonl").read_bytes()
    error = cli.refuses(*words)
    assert "out.jsonl exists, written 20" in error
    assert "add --force to replace it" in error
    assert Path("out.jsonl").read_bytes() == before
    assert cli(*words, "--force").exit_code == 0


def test_an_empty_file_is_no_loss(cli: Cli) -> None:
    OUTPUT.touch()
    assert cli(*SINGLE).exit_code == 0


@pytest.mark.parametrize("command", [SINGLE, DOWNLOAD])
def test_rows_of_a_command_that_did_not_end_are_not_overwritten(
    cli: Cli, command: tuple[str, ...]
) -> None:
    INPUT.write_text("key\na\n")
    Path("links.csv.partial").write_text("key\turl\n")
    error = cli.refuses(*command)
    assert "links.csv.partial has the rows of a command that did not end" in error
    assert Path("links.csv.partial").read_text() == "key\turl\n"


def test_an_interrupted_run_is_not_overwritten_by_a_single_request(cli: Cli) -> None:
    INPUT.write_text("key\na\nb\n")
    assert cli(*DOWNLOAD, "--timeout", "1s", plan=lose_chunk(0)).exit_code == 3
    assert "belongs to an interrupted run with --from" in cli.refuses(*SINGLE)


def test_a_request_without_a_grant_leaves_no_file(cli: Cli) -> None:
    assert cli(*SINGLE, "--timeout", "1s", plan=lose_chunk(0)).exit_code == 3
    assert list(Path().iterdir()) == []
