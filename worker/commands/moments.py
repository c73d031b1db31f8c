"""The format of moments and time zones on the command line."""

import re
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from difflib import get_close_matches
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from valetkey.units import parse_duration

EXAMPLES = (
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
    """Parse a moment such as `2 days ago`, `yesterday`, `monday`, `2026-11` or `2026-11-24T08:30`.

    A duration is counted back from now. A day or a month means its first moment, and the name of a
    weekday the last one, which may be today. Everything without a time zone is in the given one. A
    local time that clocks show twice is the first of the two, and one that they skip is the moment
    at which they skip it. Returns a time in UTC. Raises ValueError.
    """
    words = " ".join(text.lower().split())
    try:
        moment = _parse_duration_ago(words, now) or _parse_day(words, now.astimezone(zone).date())
        if moment is None:
            moment = datetime.fromisoformat(text.strip())
        return (moment if moment.tzinfo else _localize(moment, zone)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"expected {EXAMPLES} (UTC, unless it has a time zone)") from None


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
    """Return the first moment of a named day or of a month, as a local time."""
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
    """Return the first moment at which clocks in the zone show a time, or have skipped it."""
    first, second = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first <= second:  # shown once, or twice
        return first
    # Skipped: `fold` then applies the offset of the other side of the change.
    seconds = range(int((first - second).total_seconds()))
    change = bisect_left(seconds, local, key=lambda offset: _wall_time(second, offset, zone))
    return second + timedelta(seconds=change)


def _wall_time(start: datetime, seconds: int, zone: tzinfo) -> datetime:
    return (start + timedelta(seconds=seconds)).astimezone(zone).replace(tzinfo=None)
