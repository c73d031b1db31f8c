"""Sizes, durations, times and checksums as people read and write them."""

import re
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from valetkey.wire.terms import Checksum

_DECIMAL_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY_UNITS = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_BYTES_BY_UNIT = {"": 1} | _DECIMAL_UNITS | _BINARY_UNITS
_SECONDS_BY_UNIT = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_FORMATTED_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_FORMATTED_DURATIONS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_AMOUNT = re.compile(r"([0-9]{1,15}) ?([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Return the number of bytes in a size like `500KiB`, `5MB`, `10GiB` or `1024`.

    KB to TB are powers of 1,000; KiB to TiB are powers of 1,024. Case is ignored.
    Raises ValueError, also for a bare K, M or G, because it could mean either.
    """
    amount, unit = _split_unit(text, "a size is a whole number and a unit, like 500KiB or 5MB")
    if unit.upper() not in _BYTES_BY_UNIT:
        raise ValueError(f"unknown unit {unit!r}: use B, KB, MB, GB, TB, KiB, MiB, GiB or TiB")
    return amount * _BYTES_BY_UNIT[unit.upper()]


def parse_duration(text: str) -> int:
    """Return the number of seconds in a duration like `90`, `90s`, `15m`, `1h` or `7d`.

    Raises ValueError.
    """
    amount, unit = _split_unit(text, "a duration is a whole number and a unit, like 15m or 1h")
    if unit not in _SECONDS_BY_UNIT:
        raise ValueError(f"unknown unit {unit!r}: use s, m, h or d")
    return amount * _SECONDS_BY_UNIT[unit]


def format_size(number: int) -> str:
    """Format a number of bytes in the largest unit in which it is at least 1, such as 1.5GiB."""
    last = len(_FORMATTED_SIZES) - 1
    exponent = next((n for n in range(last, 0, -1) if number >= 1_024**n), 0)
    whole, remainder = divmod(number, 1_024**exponent)
    quantity = f"{number / 1_024**exponent:.1f}" if remainder else str(whole)
    return f"{quantity}{_FORMATTED_SIZES[exponent]}"


def format_duration(duration: timedelta) -> str:
    """Format a duration in its two largest units, such as 11h 30m. A negative one is 0s."""
    remaining, parts = max(int(duration.total_seconds()), 0), []
    for unit, seconds in _FORMATTED_DURATIONS:
        if remaining >= seconds:
            parts.append(f"{remaining // seconds}{unit}")
            remaining %= seconds
    return " ".join(parts[:2]) or "0s"


def format_utc(moment: datetime) -> str:
    """Format an aware datetime as ISO 8601 in UTC, with a Z."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_checksum(text: str) -> Checksum:
    """Parse a checksum: its algorithm, a colon and its value in base64. Raises ValueError."""
    algorithm, _, value = text.partition(":")
    try:
        return Checksum.model_validate({"algorithm": algorithm, "value": value})
    except ValidationError:
        raise ValueError(
            "a checksum is sha256, crc32, crc32c or crc64nvme, then a colon and the value in base64"
        ) from None


def _split_unit(text: str, expected: str) -> tuple[int, str]:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{expected}, not {text!r}")
    return int(match[1]), match[2]
