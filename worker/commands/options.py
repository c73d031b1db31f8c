"""Click options that several commands share."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click

from valetkey.units import parse_duration
from worker.clock import now

MAX_PAGE_ROWS = 1_000
Command = TypeVar("Command", bound=Callable[..., Any])


def moment_option(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> datetime | None:
    """Read an option: 2h, 2d ago, 2026-11-24 or 2026-11-24T08:30. Use it as its callback."""
    try:
        return None if text is None else parse_moment(text, now())
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


_AGO = re.compile(r"([0-9]+ ?[smhd])( ago)?").fullmatch


def parse_moment(text: str, now: datetime) -> datetime:
    """The moment meant by `2h`, `2d ago`, `2026-11-24` or `2026-11-24T08:30:00+01:00`.

    A date is its first moment, and what names no time zone is in UTC. Raises ValueError.
    """
    ago = _AGO(text.strip())
    try:
        if ago:
            return now - timedelta(seconds=parse_duration(ago[1]))
        read = datetime.fromisoformat(text.strip())
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("a moment is 2h, 2d ago, 2026-11-24 or 2026-11-24T08:30") from None


def format_options(command: Command) -> Command:
    """Add --json and --csv to a command, which then takes a form."""
    as_json = click.option(
        "--json", "form", flag_value="json", help="Print one JSON object a line, exactly as stored."
    )
    as_csv = click.option(
        "--csv",
        "form",
        flag_value="csv",
        help="Print CSV. What a spreadsheet would run as a formula gets an apostrophe before it.",
    )
    return as_json(as_csv(command))


def limit_option(command: Command) -> Command:
    """Add --limit to a command: a page is all it ever reads."""
    return click.option(
        "--limit",
        type=click.IntRange(1, MAX_PAGE_ROWS),
        default=50,
        show_default=True,
        help="How many at most.",
    )(command)
