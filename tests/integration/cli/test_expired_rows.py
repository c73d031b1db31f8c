"""Output rows whose grants have expired or expire soon are counted; the exit code is 6."""

import shlex
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli.interrupted_download import lose_chunk
from tests.support.cli.producer_commands import Cli, read_csv
from tests.support.fakes.fake_service import grant_outcome
from valetkey.cli.terminal_text import program_command
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

DOWNLOAD = ("download", "reports", "--from", "keys.csv", "--out", "links.csv")
RESUME = (*DOWNLOAD, "--resume")
INPUT = Path("keys.csv")
Decide = Callable[[dict[str, Any]], dict[str, Any]]


def granting(seconds_left: Callable[[str], float], limited_by: str = "request") -> Decide:
    """Return the decision of a service whose grants have so much time left, by key."""

    def decide(message: dict[str, Any]) -> dict[str, Any]:
        outcome = grant_outcome(message)
        for item in outcome["items"]:
            end = datetime.now(UTC) + timedelta(seconds=seconds_left(item["key"]))
            item |= {"expires_at": end.isoformat(), "limited_by": limited_by}
        return outcome

    return decide


ONE_OF_EACH = granting(lambda key: {"dead": -60, "short": 300, "good": 3_000}[key])


@pytest.fixture
def finished(cli: Cli) -> Cli:
    """A finished run with an expired row, one with less than a tenth of an hour, and another."""
    INPUT.write_text("key\ndead\nshort\ngood\n")
    cli(*DOWNLOAD, decide=ONE_OF_EACH)
    return cli


def test_a_finished_run_with_expired_rows_is_not_called_good(finished: Cli) -> None:
    result = finished(*RESUME)
    assert (result.exit_code, finished.messages) == (6, [])
    assert (
        "links.csv is complete: 3 granted, none refused; nothing was requested\n" in result.stderr
    )
    counts = "1 rows have expired, 1 more have less than a tenth of the requested time left"
    assert f"links.csv: {counts}" in result.stderr


def test_the_printed_command_issues_expired_rows_anew(finished: Cli) -> None:
    last_line = finished(*RESUME).stderr.splitlines(keepends=True)[-1]
    assert last_line == f"Next: {program_command('valetkey')} {shlex.join(DOWNLOAD)} --force\n"
    assert finished(*DOWNLOAD, "--force").exit_code == 0
    assert finished(*RESUME).exit_code == 0


@pytest.mark.parametrize(
    ("min_left", "counts"),
    [
        ("10s", "1 rows have expired, 0 more have less than 10 seconds left"),
        ("59m", "1 rows have expired, 2 more have less than 59 minutes left"),
    ],
)
def test_min_left_is_the_time_that_a_row_needs(finished: Cli, min_left: str, counts: str) -> None:
    result = finished(*RESUME, "--min-left", min_left)
    assert (result.exit_code, counts in result.stderr) == (6, True)


def test_min_left_0_turns_the_check_off(finished: Cli) -> None:
    result = finished(*RESUME, "--min-left", "0")
    assert (result.exit_code, "expired" in result.stderr) == (0, False)


def test_a_row_is_measured_by_the_lifetime_that_it_requested(cli: Cli) -> None:
    INPUT.write_text("key,expires_in\na,50m\nb,49m\nc,\n")
    result = cli(*DOWNLOAD, "--expires-in", "40m", decide=granting(lambda _: 297))
    assert result.exit_code == 6
    assert "0 rows have expired, 1 more have less than a tenth" in result.stderr
    result = cli(*RESUME, "--expires-in", "40m")
    assert "0 rows have expired, 1 more have less than a tenth" in result.stderr


def test_rows_that_a_resumed_run_keeps_are_measured_by_their_own_lifetimes(cli: Cli) -> None:
    INPUT.write_text("key,expires_in\na,\nb,50m\nno/c,\n")
    short = granting(lambda _: 297)
    options = ("--expires-in", "40m")
    cli(*DOWNLOAD, *options, decide=short)
    result = cli(*RESUME, *options, decide=short)
    assert (result.exit_code, len(cli.messages)) == (6, 1)
    assert "0 rows have expired, 1 more have less than a tenth" in result.stderr


def test_a_grant_that_the_credentials_shortened_is_good_until_it_expires(cli: Cli) -> None:
    INPUT.write_text("key\na\n")
    limited = granting(lambda _: 60, "credentials")
    assert cli(*DOWNLOAD, "--expires-in", "7d", decide=limited).exit_code == 0
    assert cli(*RESUME, "--expires-in", "7d").exit_code == 0


def test_rows_from_before_an_interruption_count_at_the_end_of_the_resumed_run(cli: Cli) -> None:
    keys = [f"k/{n}" for n in range(3 * DEFAULT_CHUNK_ITEMS)]
    INPUT.write_text("key\n" + "".join(f"{key}\n" for key in keys))
    expired = granting(lambda _: -1)
    interrupted = cli(*DOWNLOAD, "--csv", "--timeout", "2s", plan=lose_chunk(2), decide=expired)
    assert interrupted.exit_code == 3
    before = sum(1 for _ in read_csv("links.csv.partial"))
    result = cli(*DOWNLOAD, "--csv", "--resume")
    assert result.exit_code == 6
    assert f"links.csv: {before:,} rows have expired, 0 more" in result.stderr


def test_a_row_that_expired_outweighs_one_that_was_refused(cli: Cli) -> None:
    INPUT.write_text("key\nno/a\ndead\n")
    result = cli(*DOWNLOAD, decide=granting(lambda _: -1))
    assert result.exit_code == 6
    assert [line[-7:] for line in result.stderr.splitlines() if "Next: " in line] == ["--force"]


def test_a_single_link_that_has_expired_already_is_exit_6(cli: Cli) -> None:
    command = ("download", "reports", "my file", "--expires-in", "10s")
    result = cli(*command, decide=granting(lambda _: -1))
    assert (result.exit_code, result.stdout) == (6, "http://127.0.0.1/reports/0\n")
    assert f"Next: {program_command('valetkey')} {shlex.join(command)}\n" in result.stderr


def test_a_key_like_an_option_stays_in_the_printed_command(cli: Cli) -> None:
    result = cli("download", "reports", "--", "--force", decide=granting(lambda _: -1))
    assert result.stderr.endswith("valetkey download reports -- --force\n")


@pytest.mark.parametrize("words", [("a",), ("--from", "keys.csv")], ids=["single", "bulk"])
def test_more_time_than_a_new_grant_has_is_refused_before_anything_is_charged(
    cli: Cli, words: tuple[str, ...]
) -> None:
    INPUT.write_text("key,expires_in\na,2h\nb,\n")
    error = cli.refuses("download", "reports", *words, "--min-left", "1h")
    assert "must be less than the requested time, 1 hour: see --expires-in" in error


def test_rows_may_have_more_time_than_the_other_requests(cli: Cli) -> None:
    INPUT.write_text("key,expires_in\na,3h\n")
    good = granting(lambda _: 10_000)
    assert cli(*DOWNLOAD, "--min-left", "2h", decide=good).exit_code == 0
