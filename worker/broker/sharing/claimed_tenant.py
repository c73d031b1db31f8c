"""Reads from a frame which tenant it claims to be from.

A frame is a message as kombu stores it in Redis. The claim is not verified: it only decides where
the frame waits.
"""

import base64
import re
from typing import Any, Literal

from pydantic_core import from_json

PREFIX_BYTES = 2_048
"""The length of the part of a frame that is read, so that a large frame costs no more."""

UNKNOWN = "?"
"""The claim of all frames that name no tenant; no tenant can have this name."""

_TENANT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


def claimed_tenant(prefix: bytes) -> str:
    """Return the tenant that a frame claims to be from, or UNKNOWN. Never raises.

    prefix is the beginning of the frame. kombu writes the body first, and a signed body begins
    with the id of the key, an unsigned one with the tenant.
    """
    try:
        name = _read_claim(prefix.decode("utf-8", "ignore"))
    except (ValueError, RecursionError):
        return UNKNOWN
    return name if isinstance(name, str) and _TENANT_NAME.fullmatch(name) else UNKNOWN


def _read_claim(prefix: str) -> Any:
    match _parse(prefix):
        case {"body": str(body)}:
            arguments = _decode_body(body)
        case _:
            return None
    match _parse(arguments):
        case [[str(token), *_], *_]:
            return _read_key_id(token).partition("/")[0]
        case [[dict(), *_], *_]:
            # Without an incomplete string at its end, which could be the beginning of a name.
            return _parse(arguments, "on")[0][0].get("tenant")
    return None


def _decode_body(body: str) -> str:
    """Decode a body, which is base64 unless it is JSON. Its end may be missing."""
    if body.lstrip().startswith("["):
        return body
    return base64.b64decode(body[: len(body) // 4 * 4]).decode("utf-8", "ignore")


def _read_key_id(token: str) -> str:
    """Return the kid of a compact JWS, or an empty text."""
    header, dot, _ = token.partition(".")
    if not dot:
        return ""
    match from_json(base64.urlsafe_b64decode(header + "==")):
        case {"kid": str(key_id)}:
            return key_id
    return ""


def _parse(text: str, partial: Literal["on", "trailing-strings"] = "trailing-strings") -> Any:
    return from_json(text, allow_partial=partial)
