"""Sizes, durations and times as people read and write them."""

import re
from datetime import UTC, datetime, timedelta

from valetkey.arguments import checked

_DECIMAL_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY_UNITS = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_BYTES_BY_UNIT = {"": 1} | _DECIMAL_UNITS | _BINARY_UNITS
_SECONDS_BY_UNIT = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_FORMATTED_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_FORMATTED_DURATIONS = (("day", 86_400), ("hour", 3_600), ("minute", 60), ("second", 1))
_BYTES_PER_KIB = 1_024
_LIVE_RESETS = {
    "upload_bytes": "as slots are settled",
    "stored_bytes": "as slots are settled, objects deleted",
}
_AMOUNT = re.compile(r"([0-9]{1,15}) ?([A-Za-z]*)")


@checked
def parse_size(text: str) -> int:
    """Return the number of bytes in a size like `500KiB`, `5MB`, `10GiB` or `1024`.

    KB to TB are powers of 1,000; KiB to TiB are powers of 1,024. Case is ignored.
    Raises ValueError, also for a bare K, M or G, because it could mean either.
    """
    amount, unit = _split_unit(text, "a size is a whole number and a unit, like 500KiB or 5MB")
    if unit.upper() not in _BYTES_BY_UNIT:
        raise ValueError(f"unknown unit {unit!r}: use B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    return amount * _BYTES_BY_UNIT[unit.upper()]


@checked
def parse_duration(text: str) -> int:
    """Return the number of seconds in a duration like `90`, `90s`, `15m`, `1h` or `7d`.

    Raises ValueError.
    """
    amount, unit = _split_unit(text, "a duration is a whole number and a unit, like 15m or 1h")
    if unit not in _SECONDS_BY_UNIT:
        raise ValueError(f"unknown unit {unit!r}: use s, m, h or d")
    return amount * _SECONDS_BY_UNIT[unit]


def format_size(number: int) -> str:
    """Format a number of bytes for a table, in the largest unit in which it is at least 1.

    The result is like `1.5 GiB`, and may be rounded; `describe_size` is exact.
    """
    last = len(_FORMATTED_SIZES) - 1
    exponent = next((n for n in range(last, 0, -1) if number >= _BYTES_PER_KIB**n), 0)
    whole, remainder = divmod(number, _BYTES_PER_KIB**exponent)
    quantity = str(whole) if remainder == 0 else f"{number / _BYTES_PER_KIB**exponent:.1f}"
    return f"{quantity} {_FORMATTED_SIZES[exponent]}"


def describe_size(number: int) -> str:
    """Describe a number of bytes exactly, such as `5 MiB (5,242,880 bytes)` or `1 byte`."""
    count = _count(number, "byte")
    return count if number < _BYTES_PER_KIB else f"{format_size(number)} ({count})"


def describe_amount(metric: str, number: int) -> str:
    """Describe an amount of a quota's metric exactly: a size for one in bytes, else a number."""
    return describe_size(number) if metric.endswith("_bytes") else f"{number:,}"


def describe_live_reset(metric: str) -> str:
    """Say when usage of a metric in the window `live` becomes smaller."""
    return _LIVE_RESETS.get(metric, "as grants expire")


def format_amount(metric: str, number: int) -> str:
    """Format an amount of a quota's metric for a table: a size for one in bytes, else a number."""
    return format_size(number) if metric.endswith("_bytes") else f"{number:,}"


def format_duration(duration: timedelta) -> str:
    """Format a duration in its two largest units, such as `11 hours 30 minutes`.

    A negative duration is `0 seconds`.
    """
    return " ".join(_duration_parts(int(duration.total_seconds()))[:2])


def describe_duration(seconds: int) -> str:
    """Describe a number of seconds exactly, such as `7 days` or `1 minute 30 seconds`."""
    return " ".join(_duration_parts(seconds))


def format_utc(moment: datetime) -> str:
    """Format an aware datetime as ISO 8601 in UTC, with a Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _split_unit(text: str, expected: str) -> tuple[int, str]:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{expected}, not {text!r}")
    return int(match[1]), match[2]


def _duration_parts(seconds: int) -> list[str]:
    remaining, parts = max(seconds, 0), []
    for unit, length in _FORMATTED_DURATIONS:
        count, remaining = divmod(remaining, length)
        if count > 0:
            parts.append(_count(count, unit))
    return parts or [_count(0, "second")]


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
