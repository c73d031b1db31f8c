"""Click options that several commands share."""

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any, TypeVar, cast

import click

from valetkey.cli.format_options import format_option
from valetkey.units import format_utc
from worker import clock
from worker.commands.moments import parse_moment, parse_zone
from worker.core.links.grant_name import GrantName

MAX_PAGE_ROWS = 1_000
Command = TypeVar("Command", bound=Callable[..., Any])

_ZONE_KEY = f"{__name__}.zone"


class _Text(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A text that a database can store and compare."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            self.fail("it has bytes that are not UTF-8, or a zero byte", param, ctx)
        return value


TEXT = _Text()


def parse_moment_option(
    context: click.Context, _option: click.Parameter, text: str | None
) -> datetime | None:
    """Parse an option's value as a moment, in the zone of --tz. Callback of a Click option."""
    try:
        return None if text is None else parse_moment(text, clock.now(), chosen_zone(context))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def parse_cursor(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> GrantName | None:
    """Parse `[TENANT/]BATCH.NUMBER`. Callback of a Click option."""
    if text is None:
        return None
    try:
        return GrantName.parse(text)
    except ValueError as error:
        raise click.BadParameter(f"{error}, as in the column `grant`") from None


def refuse_empty_range(since: datetime | None, until: datetime | None) -> None:
    """Raise click.UsageError for a range that ends before it begins; without until it ends now."""
    if since is None:
        return
    if until is None and since > clock.now():
        raise click.UsageError(f"--since {format_utc(since)} is in the future")
    if until is not None and since > until:
        raise click.UsageError(
            f"--since {format_utc(since)} is later than --until {format_utc(until)}"
        )


def chosen_zone(context: click.Context) -> tzinfo:
    """Return the time zone of --tz, or UTC."""
    zone: tzinfo = context.meta.get(_ZONE_KEY, UTC)
    return zone


def zone_option(command: Command) -> Command:
    """Add --tz to a command: the time zone in which it reads and prints times."""
    # Eager: the callbacks of options with times need the zone, also those before it.
    return click.option(
        "--tz",
        "zone",
        metavar="ZONE",
        is_eager=True,
        callback=_parse_zone_option,
        help="Read and print times in this zone, such as Europe/Berlin, instead of UTC.",
    )(command)


def _parse_zone_option(
    context: click.Context, _option: click.Parameter, name: str | None
) -> tzinfo | None:
    if name is None:
        return None
    try:
        zone = context.meta[_ZONE_KEY] = parse_zone(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return zone


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
        type=TEXT,
        help="Only this tenant. A name selects all tenants that had it; NAME~1 only the first of"
        " them, NAME~2 the second.",
    )(command)


def since_option(command: Command) -> Command:
    """Add --since, the earliest moment to select, to a command."""
    return click.option(
        "--since",
        callback=parse_moment_option,
        help="Only at or after this moment: 2h, 2 days ago, yesterday, monday, last month, 2026-11,"
        " 2026-11-24, or 2026-11-24T08:30. Times without a zone are UTC.",
    )(command)


def until_option(command: Command) -> Command:
    """Add --until, the moment before which to select, to a command."""
    return click.option(
        "--until",
        callback=parse_moment_option,
        help="Only before this moment, in the same formats.",
    )(command)
