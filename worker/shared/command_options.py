"""Click options that commands of features share, and formats of times."""

import re
import signal
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import MAXYEAR, MINYEAR, UTC, date, datetime, time, timedelta, tzinfo
from difflib import get_close_matches
from types import FrameType
from typing import Any, NoReturn, TypeVar, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

import click

from valetkey.cli.format_options import format_option
from valetkey.units import format_utc, parse_duration
from worker import clock
from worker.cli.command_options import ROW_NUMBER
from worker.shared.grant_names import GrantName

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def signals_as_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt for the first Ctrl-C, SIGTERM or SIGHUP, and ignore later ones.

    The cleanup must take a bounded time: a second Ctrl-C does not end it.
    """
    handlers = {number: signal.signal(number, _interrupt) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


MOMENT_EXAMPLES = (
    "a duration before now, such as 2h or 2 days ago, a date or time, such as 2026-11-24,"
    " 2026-11-24T08:30 or 2026-11, or a day or month, such as yesterday, monday or last month"
)


_DURATION_AGO = re.compile(r"([0-9]+) ?([a-z]+)( ago)?").fullmatch


_UNITS = {"sec": "s", "second": "s", "min": "m", "minute": "m", "hour": "h", "day": "d"}


_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})").fullmatch


_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


_DAYS: dict[str, Callable[[date], date]] = {
    "today": lambda today: today,
    "yesterday": lambda today: today - timedelta(days=1),
    "this week": lambda today: today - timedelta(days=today.weekday()),
    "last week": lambda today: today - timedelta(days=today.weekday() + 7),
    "this month": lambda today: today.replace(day=1),
    "last month": lambda today: (today.replace(day=1) - timedelta(days=1)).replace(day=1),
    "this year": lambda today: today.replace(month=1, day=1),
    "last year": lambda today: today.replace(year=today.year - 1, month=1, day=1),
}


def parse_moment(text: str, now: datetime, zone: tzinfo = UTC) -> datetime:
    """Parse a time such as `2 days ago`, `yesterday`, `monday`, `2026-11` or `2026-11-24T08:30`.

    A duration is counted back from now. A day or a month means its start, and the name of a
    weekday the last one, which may be today. Everything without a time zone is in the given one. A
    local time that clocks show twice is the first of the two, and one that they skip is the time
    at which they skip it. Returns a time in UTC. Raises ValueError.
    """
    words = " ".join(text.lower().split())
    try:
        moment = _parse_duration_ago(words, now) or _parse_day(words, now.astimezone(zone).date())
        if moment is None:
            moment = datetime.fromisoformat(text.strip())
        moment = (moment if moment.tzinfo else _localize(moment, zone)).astimezone(UTC)
        # Some hours before and after it can be computed.
        if MINYEAR < moment.year < MAXYEAR:
            return moment
    except (ValueError, OverflowError):
        pass
    raise ValueError(f"expected {MOMENT_EXAMPLES} (UTC, unless it has a time zone)")


def parse_zone(name: str) -> tzinfo:
    """Return the time zone of an IANA name, such as `Europe/Berlin`. Raises ValueError."""
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        pass
    hint = _similar_zone(name)
    text = f": did you mean {hint}?" if hint else ", expected one such as Europe/Berlin or UTC"
    raise ValueError(f"there is no time zone {name!r}{text}")


def _similar_zone(name: str) -> str | None:
    """Return the zone with a similar name, or with a similar city."""
    zones = {zone.lower(): zone for zone in sorted(available_timezones())}
    cities = {zone.rpartition("/")[2]: zone for zone in zones.values() if "/" in zone}
    by_city = {city.lower(): zone for city, zone in sorted(cities.items())}
    wanted = name.lower().strip().replace(" ", "_")
    for known in (zones, by_city):
        similar = get_close_matches(wanted, known, n=1, cutoff=0.75)
        if similar:
            return known[similar[0]]
    return None


def _parse_duration_ago(words: str, now: datetime) -> datetime | None:
    if words == "now":
        return now
    match = _DURATION_AGO(words)
    if match is None:
        return None
    number, unit = int(match[1]), match[2]
    if unit in {"w", "week", "weeks"}:
        number, unit = 7 * number, "d"
    unit = _UNITS.get(unit.removesuffix("s"), unit)
    return now - timedelta(seconds=parse_duration(f"{number}{unit}"))


def _parse_day(words: str, today: date) -> datetime | None:
    """Return the start of a named day or of a month, as a local time."""
    month = _MONTH(words)
    if month:
        day = date(int(month[1]), int(month[2]), 1)
    elif words in _DAYS:
        day = _DAYS[words](today)
    elif words in _WEEKDAYS:
        day = today - timedelta(days=(today.weekday() - _WEEKDAYS.index(words)) % 7)
    else:
        return None
    return datetime.combine(day, time())


def _localize(local: datetime, zone: tzinfo) -> datetime:
    """Return the first time at which clocks in the zone show a time, or have skipped it."""
    first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:  # shown once, or twice
        return first
    # Skipped: `fold` then applies the offset of the other side of the change.
    seconds = range(int((first - second).total_seconds()))
    change = bisect_left(seconds, local, key=lambda offset: _wall_time(second, offset, zone))
    return second + timedelta(seconds=change)


def _wall_time(start: datetime, seconds: int, zone: tzinfo) -> datetime:
    return (start + timedelta(seconds=seconds)).astimezone(zone).replace(tzinfo=None)


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
    """Parse an option's value as a time, in the zone of --tz. Callback of a Click option."""
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


MAX_REASON = 200


def parse_reason(_context: click.Context, _option: click.Parameter, text: str | None) -> str | None:
    """Return a reason for the audit log. Raises click.BadParameter."""
    if text is not None and not (text.strip() and len(text) <= MAX_REASON and text.isprintable()):
        raise click.BadParameter(f"write 1 to {MAX_REASON} characters on one line")
    return text


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


# Eager: the callbacks of options with times need the zone, also those before it.
zone_option = click.option(
    "--tz",
    "zone",
    metavar="ZONE",
    is_eager=True,
    callback=_parse_zone_option,
    help="Read and print times in this zone, such as Europe/Berlin, instead of UTC.",
)


def format_options(command: Command) -> Command:
    """Add --json and --csv to a command. Its parameter output_format is "json", "csv" or None."""
    as_json = format_option("--json", "Print one JSON object per line, with values as stored.")
    as_csv = format_option(
        "--csv",
        "Print CSV. A cell that a spreadsheet might run as a formula gets an apostrophe in front.",
    )
    return cast("Command", as_json(as_csv(command)))


limit_option = click.option(
    "--limit",
    type=click.IntRange(1, MAX_PAGE_ROWS),
    default=50,
    show_default=True,
    help="Maximum number of rows.",
)


after_number_option = click.option(
    "--after", type=ROW_NUMBER, help="Start after the row with this number."
)


tenant_option = click.option(
    "--tenant",
    type=TEXT,
    help="Only this tenant. A name selects all tenants that had it; NAME~1 only the first of"
    " them, NAME~2 the second.",
)


since_option = click.option(
    "--since",
    callback=parse_moment_option,
    help="Only at or after this time: 2h, 2 days ago, yesterday, monday, last month, 2026-11,"
    " 2026-11-24, or 2026-11-24T08:30. Times without a zone are UTC.",
)


until_option = click.option(
    "--until",
    callback=parse_moment_option,
    help="Only before this time, in the same formats.",
)
