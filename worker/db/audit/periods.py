"""Hours, days and months in a time zone, as the groups of counts."""

from collections.abc import Callable
from datetime import datetime, tzinfo
from typing import Literal

Period = Literal["hour", "day", "month"]

_HOUR, _DAY = 3_600, 86_400
_OFFSET_UNIT = 900  # every time zone in use differs from UTC by a multiple of 15 minutes
_UTC_UNITS: dict[Period, int] = {"hour": _HOUR, "day": _DAY, "month": _DAY}


def seconds_per_unit(period: Period, zone: tzinfo) -> int:
    """Return the length in seconds of the units of which each period of a zone consists.

    Units are counted from 1970-01-01 in UTC, so that a database without time zones can group by
    them.
    """
    return _UTC_UNITS[period] if str(zone) == "UTC" else _OFFSET_UNIT


def describe_unit(period: Period, zone: tzinfo, unit: int) -> str:
    """Return the name of the period that contains a unit.

    A day is like `2026-11-24`, a month like `2026-11`. An hour has its offset from UTC, like
    `2026-11-24T08:00+01:00`: when summer time ends, two hours have the same time of day.
    """
    start = datetime.fromtimestamp(unit * seconds_per_unit(period, zone), zone)
    return _FORMATS[period](start)


def _format_hour(moment: datetime) -> str:
    text = moment.replace(minute=0).isoformat(timespec="minutes")
    return text.replace("+00:00", "Z")


_FORMATS: dict[Period, Callable[[datetime], str]] = {
    "hour": _format_hour,
    "day": lambda moment: moment.date().isoformat(),
    "month": lambda moment: moment.date().isoformat()[:7],
}
