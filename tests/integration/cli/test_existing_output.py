"""Files that a command would lose: outputs of single requests, and parts of interrupted runs."""

from pathlib import Path

import pytest

from tests.support.cli.interrupted_download import assert_nothing_is_requested, run_cli
from tests.support.fakes.fake_service import running_fake_service

DOWNLOAD = ("download", "reports", "--from", "keys.csv", "--out", "links.csv")
RESUME = (*DOWNLOAD, "--resume")
JOURNAL = Path("links.csv.resume.json")


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
    broker: str, command: tuple[str, ...]
) -> None:
    words = (*command, "--out", "out.jsonl")
    with running_fake_service(broker):
        assert run_cli(*words).exit_code == 0
    before = Path("out.jsonl").read_bytes()
    result = assert_nothing_is_requested(broker, *words)
    assert result.exit_code == 2
    assert "out.jsonl exists, written 20" in result.stderr
    assert "add --force to replace it" in result.stderr
    assert Path("out.jsonl").read_bytes() == before
    with running_fake_service(broker):
        assert run_cli(*words, "--force").exit_code == 0


def test_an_empty_file_is_no_loss(broker: str) -> None:
    Path("links.csv").touch()
    with running_fake_service(broker):
        assert run_cli("download", "reports", "a", "--out", "links.csv").exit_code == 0


@pytest.mark.parametrize("command", [("download", "reports", "a", "--out", "links.csv"), DOWNLOAD])
def test_rows_of_a_command_that_did_not_end_are_not_overwritten(
    broker: str, command: tuple[str, ...]
) -> None:
    Path("keys.csv").write_text("key\na\n")
    Path("links.csv.partial").write_text("key\turl\n")
    result = assert_nothing_is_requested(broker, *command)
    assert result.exit_code == 2
    assert "links.csv.partial has the rows of a command that did not end" in result.stderr


def test_an_interrupted_run_is_not_overwritten_by_a_single_request(broker: str) -> None:
    Path("keys.csv").write_text("key\na\n")
    with running_fake_service(broker, lambda _message, _arrival: "lose"):
        run_cli(*DOWNLOAD, "--timeout", "1s")
    words = ("download", "reports", "a", "--out", "links.csv")
    result = assert_nothing_is_requested(broker, *words)
    assert result.exit_code == 2
    assert "belongs to an interrupted run with --from" in result.stderr


def test_a_request_without_a_grant_leaves_no_file(broker: str) -> None:
    with running_fake_service(broker, lambda _message, _arrival: "lose"):
        words = ("download", "reports", "a", "--out", "links.csv", "--timeout", "1s")
        assert run_cli(*words).exit_code == 3
    assert list(Path().iterdir()) == []
