"""Sizes, durations and checksums as people write them."""

import re

from pydantic import ValidationError

from valetkey.wire.terms import Checksum

_DECIMAL = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_BINARY = {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_BYTES = {"": 1} | _DECIMAL | _BINARY
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AMOUNT = re.compile(r"([0-9]{1,15}) ?([A-Za-z]*)")


def parse_size(text: str) -> int:
    """Bytes from `500KiB`, `5MB`, `10GiB` or `1024`.

    KB, MB and GB count in thousands, KiB, MiB and GiB in 1,024s; case is ignored. A bare K, M
    or G could be either, so it is refused. Raises ValueError.
    """
    amount, unit = _split(text, "a size is a whole number and a unit, like 500KiB or 5MB")
    if unit.upper() not in _BYTES:
        raise ValueError(f"unknown unit {unit!r}: use B, KB, MB, GB, KiB, MiB or GiB")
    return amount * _BYTES[unit.upper()]


def parse_duration(text: str) -> int:
    """Seconds from `90`, `90s`, `15m`, `1h` or `7d`. Raises ValueError."""
    amount, unit = _split(text, "a duration is a whole number and a unit, like 15m or 1h")
    if unit not in _SECONDS:
        raise ValueError(f"unknown unit {unit!r}: use s, m, h or d")
    return amount * _SECONDS[unit]


def parse_checksum(text: str) -> Checksum:
    """A checksum from its algorithm, a colon and its value in base64. Raises ValueError."""
    algorithm, _, value = text.partition(":")
    try:
        return Checksum.model_validate({"algorithm": algorithm, "value": value})
    except ValidationError:
        expected = "a checksum is sha256, crc32, crc32c or crc64nvme, a colon and base64"
        raise ValueError(expected) from None


def _split(text: str, expected: str) -> tuple[int, str]:
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{expected}, not {text!r}")
    return int(match[1]), match[2]
