"""Click options that several commands share, and the format of moments on the command line."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar, cast

import click

from valetkey.cli.format_options import format_option
from valetkey.units import parse_duration
from worker import clock

MAX_PAGE_ROWS = 1_000
Command = TypeVar("Command", bound=Callable[..., Any])

_DURATION_AGO = re.compile(r"([0-9]+ ?[smhd])( ago)?").fullmatch


def parse_moment_option(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> datetime | None:
    """Parse an option's value as a moment. Callback of a Click option."""
    try:
        return None if text is None else parse_moment(text, clock.now())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def parse_moment(text: str, now: datetime) -> datetime:
    """Parse `2h`, `2d ago`, `2026-11-24` or `2026-11-24T08:30:00+01:00`.

    A duration is counted back from now. A date means its first moment. A date or time without a
    time zone is in UTC, and so is the result. Raises ValueError.
    """
    duration = _DURATION_AGO(text.strip())
    try:
        if duration:
            return now - timedelta(seconds=parse_duration(duration[1]))
        moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(
            "expected a duration before now, such as 2h or 2d ago, or a date or time, such as"
            " 2026-11-24 or 2026-11-24T08:30 (UTC, unless it has a time zone)"
        ) from None


def format_options(command: Command) -> Command:
    """Add --json and --csv to a command. Its parameter output_format is "json", "csv" or None."""
    as_json = format_option("--json", "Print one JSON object per line, with values as stored.")
    as_csv = format_option(
        "--csv",
        "Print CSV. A cell that a spreadsheet would run as a formula starts with an apostrophe.",
    )
    return cast("Command", as_json(as_csv(command)))


def limit_option(command: Command) -> Command:
    """Add --limit to a command: the number of rows to read at most."""
    return click.option(
        "--limit",
        type=click.IntRange(1, MAX_PAGE_ROWS),
        default=50,
        show_default=True,
        help="Maximum number of rows.",
    )(command)


def after_number_option(command: Command) -> Command:
    """Add --after, the number of the last row of the previous page, to a command."""
    return click.option(
        "--after", type=click.IntRange(min=1), help="Start after the row with this number."
    )(command)


def tenant_option(command: Command) -> Command:
    """Add --tenant, the name or id of a tenant to select, to a command."""
    return click.option(
        "--tenant",
        help="Only this tenant. A name selects all tenants that had it; NAME~1 only the first of"
        " them, NAME~2 the second.",
    )(command)


def since_option(command: Command) -> Command:
    """Add --since, the earliest moment to select, to a command."""
    return click.option(
        "--since",
        callback=parse_moment_option,
        help="Only at or after this moment: 2h, 2d ago, 2026-11-24, or 2026-11-24T08:30. Times "
        "without a zone are UTC.",
    )(command)


def until_option(command: Command) -> Command:
    """Add --until, the moment before which to select, to a command."""
    return click.option(
        "--until",
        callback=parse_moment_option,
        help="Only before this moment, in the same formats.",
    )(command)
