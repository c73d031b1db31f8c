"""Strict readers of JSON and base64: a text that two programs may read differently is refused."""

import json
from base64 import b64decode, b64encode, urlsafe_b64decode, urlsafe_b64encode
from math import isinf
from typing import Any


def parse_json(text: bytes | str) -> Any:
    """Parse JSON in UTF-8. An object has each member once, and numbers are finite.

    A string may have a lone surrogate. Raises ValueError, also for too many levels.
    """
    try:
        return _DECODER.decode(text.decode() if isinstance(text, bytes) else text)
    except RecursionError:
        raise ValueError("too many levels") from None


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has a member twice")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"JSON has no {name}")


def _finite(text: str) -> float:
    if isinf(number := float(text)):
        raise ValueError("a number is too large")
    return number


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_refuse_constant, parse_float=_finite
)


def decode_base64(text: str) -> bytes:
    """Decode base64 with padding (RFC 4648, section 4). Raises ValueError for another spelling."""
    data = b64decode(text)
    if b64encode(data) != text.encode():
        raise ValueError("not base64")
    return data


def decode_base64url(text: str) -> bytes:
    """Decode base64url without padding (RFC 7515). Raises ValueError for another spelling."""
    data = urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise ValueError("not base64url")
    return data
