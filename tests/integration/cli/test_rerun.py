"""Runs over an output that exists already: nothing that was charged is lost or charged again."""

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli.interrupted_download import (
    assert_nothing_is_requested,
    read_csv,
    run_cli,
)
from tests.support.fakes.fake_service import Action, grant_outcome, running_fake_service
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

DOWNLOAD = ("download", "reports", "--from", "keys.csv", "--out", "links.csv")
RESUME = (*DOWNLOAD, "--resume")
ROWS = "key,mail\na,a@x\nno/b,b@x\nc,c@x\n,d@x\nno/e,e@x\n"
JOURNAL = Path("links.csv.resume.json")


@pytest.fixture
def finished(broker: str) -> str:
    """A finished run whose output has two grants and three refusals."""
    Path("keys.csv").write_text(ROWS)
    with running_fake_service(broker):
        assert run_cli(*DOWNLOAD).exit_code == 1
    return broker


def allow_all(message: dict[str, Any]) -> dict[str, Any]:
    """Grant the items that the fake service refuses otherwise."""
    items = [item | {"key": item["key"].replace("no/", "now/")} for item in message["items"]]
    outcome = grant_outcome(message | {"items": items})
    for result, item in zip(outcome["items"], message["items"], strict=True):
        result["key"] = item["key"]
    return outcome


def test_a_finished_output_is_not_overwritten(finished: str) -> None:
    before = Path("links.csv").read_bytes()
    result = assert_nothing_is_requested(finished, *DOWNLOAD)
    assert result.exit_code == 2
    assert "links.csv exists, written 20" in result.stderr
    assert (
        "with 2 granted (charged), 3 refused (not charged); nothing was requested" in result.stderr
    )
    assert "--resume to request the 3 refused rows alone, or --force" in result.stderr
    assert Path("links.csv").read_bytes() == before


def test_force_requests_everything_again(finished: str) -> None:
    with running_fake_service(finished) as service:
        assert run_cli(*DOWNLOAD, "--force").exit_code == 1
    ((_, message),) = service.received
    assert message["total"] == 4


def test_only_the_refused_rows_are_requested_again(finished: str) -> None:
    before = Path("links.csv").read_text().splitlines()
    first_batch = read_csv("links.csv")[0]["id"].partition(".")[0]
    with running_fake_service(finished, decide=allow_all) as service:
        result = run_cli(*RESUME)
    ((_, message),) = service.received
    assert [item["key"] for item in message["items"]] == ["no/b", "no/e"]
    assert message["batch"] != first_batch
    after = Path("links.csv").read_text().splitlines()
    assert [after[number] for number in (0, 1, 3, 4)] == [before[n] for n in (0, 1, 3, 4)]
    rows = read_csv("links.csv")
    assert [row["key"] for row in rows] == ["a", "no/b", "c", "", "no/e"]
    assert [row["mail"] for row in rows] == ["a@x", "b@x", "c@x", "d@x", "e@x"]
    assert [row["charged"] for row in rows] == ["yes", "yes", "yes", "no", "yes"]
    assert (
        "4 granted (charged, 2 of them now), 1 refused (not charged: 1 key_empty)" in result.stderr
    )


def test_refused_rows_are_requested_until_they_are_granted(finished: str) -> None:
    Path("keys.csv").write_text("key\na\nno/b\n")
    with running_fake_service(finished):
        assert run_cli(*DOWNLOAD, "--force").exit_code == 1
        assert run_cli(*RESUME).exit_code == 1
        assert run_cli(*RESUME).exit_code == 1
    with running_fake_service(finished, decide=allow_all) as service:
        assert run_cli(*RESUME).exit_code == 0
    assert len(service.received) == 1
    assert {path.name for path in Path().iterdir()} == {"keys.csv", "links.csv"}


def test_a_complete_output_is_not_requested_again(broker: str) -> None:
    Path("keys.csv").write_text("key\na\nb\n")
    with running_fake_service(broker):
        run_cli(*DOWNLOAD)
    result = assert_nothing_is_requested(broker, *RESUME)
    assert result.exit_code == 0
    assert result.stderr == (
        "links.csv is complete: 2 granted, none refused; nothing was requested\n"
    )


@pytest.mark.parametrize("rows", ["key\na\n", "key\na\nb\nc\n", "key\na\nx\n"])
def test_a_complete_output_of_another_input_is_refused(broker: str, rows: str) -> None:
    Path("keys.csv").write_text("key\na\nb\n")
    with running_fake_service(broker):
        run_cli(*DOWNLOAD)
    Path("keys.csv").write_text(rows)
    result = assert_nothing_is_requested(broker, *RESUME)
    assert result.exit_code == 2
    assert "links.csv is complete, but not the output of this input" in result.stderr


def test_if_all_refused_rows_are_invalid_there_is_nothing_to_resume(broker: str) -> None:
    Path("keys.csv").write_text("key,mail\na,a@x\n,b@x\n")
    with running_fake_service(broker):
        run_cli(*DOWNLOAD)
    assert not JOURNAL.exists()
    result = assert_nothing_is_requested(broker, *RESUME)
    assert result.exit_code == 2
    assert "request its missing rows from a file of their own" in result.stderr


def append_row() -> None:
    Path("keys.csv").write_text(ROWS + "z,z@x\n")


def edit_output() -> None:
    with Path("links.csv").open("a") as stream:
        stream.write("more")


def swap_rows() -> None:
    heading, first, *rows = Path("links.csv").read_text().splitlines(keepends=True)
    Path("links.csv").write_text("".join((heading, *rows, first)))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (append_row, "was started with a different input: it has changed since"),
        (edit_output, "was changed since it was written"),
        (swap_rows, "was changed since it was written"),
        (Path("links.csv").unlink, "no interrupted run to resume: links.csv does not exist"),
    ],
)
def test_another_input_or_output_is_not_resumed(
    finished: str, change: Callable[[], None], error: str
) -> None:
    change()
    result = assert_nothing_is_requested(finished, *RESUME)
    assert result.exit_code == 2
    assert error in result.stderr


def test_an_interrupted_retry_leaves_the_output_and_can_be_resumed(broker: str) -> None:
    keys = [f"no/{n}" if n % 2 else f"k/{n}" for n in range(4 * DEFAULT_CHUNK_ITEMS)]
    Path("keys.csv").write_text("key\n" + "".join(f"{key}\n" for key in keys))

    def press_ctrl_c(message: dict[str, Any], _: int) -> Action:
        if message["chunk"] != 1:
            return "answer"
        os.kill(os.getpid(), signal.SIGINT)
        return "lose"

    with running_fake_service(broker):
        run_cli(*DOWNLOAD)
    before = Path("links.csv").read_bytes()
    with running_fake_service(broker, press_ctrl_c, decide=allow_all) as service:
        assert run_cli(*RESUME).exit_code == 130
    assert Path("links.csv").read_bytes() == before
    again = assert_nothing_is_requested(broker, *DOWNLOAD)
    assert "belongs to an interrupted run: add --resume to continue it, or --force" in again.stderr
    with running_fake_service(broker, decide=allow_all) as later:
        assert run_cli(*RESUME).exit_code == 0
    rows = read_csv("links.csv")
    assert [row["key"] for row in rows] == keys
    assert len({row["id"] for row in rows}) == len(keys)
    batches = {message["batch"] for _, message in (*service.received, *later.received)}
    assert len(batches) == 1
    assert not JOURNAL.exists()


def test_a_run_that_was_killed_before_its_output_had_its_name_is_finished(finished: str) -> None:
    Path("links.csv").rename("links.csv.partial")
    result = assert_nothing_is_requested(finished, *DOWNLOAD)
    assert "links.csv exists" in result.stderr
    assert len(read_csv("links.csv")) == 5


def test_the_journal_of_a_finished_run_is_private_and_has_no_secret(finished: str) -> None:
    assert finished
    assert stat.S_IMODE(JOURNAL.stat().st_mode) == 0o600
    assert "http" not in JOURNAL.read_text()


def test_the_journal_of_an_output_that_was_moved_away_hinders_no_new_run(finished: str) -> None:
    Path("links.csv").rename("sent.csv")
    with running_fake_service(finished):
        assert run_cli(*DOWNLOAD).exit_code == 1
        Path("links.csv").unlink()
        assert run_cli("download", "reports", "a", "--out", "links.csv").exit_code == 0
    assert not JOURNAL.exists()
