"""Which object keys may be signed: those that every server and client reads as the same one."""

import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote

from valetkey.wire.refusals import Code, Refusal

MAX_KEY_BYTES = 1_024  # bytes of UTF-8; AWS: object-keys.html
# What nearly all keys are: segments of such letters, none of them beginning with a dot.
_SEGMENT = "[A-Za-z0-9_+=@:,!~ -][A-Za-z0-9_.+=@:,!~ -]*"
_SIMPLE = re.compile(f"{_SEGMENT}(?:/{_SEGMENT})*").fullmatch
_INVISIBLE = frozenset({"Cf", "Zl", "Zp"})
_WORDS = {
    Code.KEY_EMPTY: "a key has at least one character",
    Code.KEY_TOO_LONG: "a key has at most 1,024 bytes of UTF-8",
    Code.KEY_INVALID: "a key is text that UTF-8 can write",
    Code.KEY_BACKSLASH: "some servers read a backslash as a slash",
    Code.KEY_CONTROL: "a key holds no control characters",
    Code.KEY_INVISIBLE: "a key holds no invisible or direction-changing characters",
    Code.KEY_EMPTY_SEGMENT: "a key neither begins nor ends with a slash, nor has two in a row",
    Code.KEY_TRAVERSAL: "no part of a key is '.' or '..', encoded or not",
    Code.KEY_RESERVED: "storage replaces ${filename} in an upload by a name of the sender's choice",
    Code.KEY_OUTSIDE_PREFIX: "the tenant's policy does not reach this key",
}


def is_simple_key(key: str) -> bool:
    """Whether a key is safe at first sight; whether it is within a prefix is another question."""
    return len(key) <= MAX_KEY_BYTES and _SIMPLE(key) is not None


def key_refusal(key: str, prefixes: Iterable[str], field: str) -> Refusal | None:
    """Refuse a key that is unsafe or outside every prefix; field is where the message has it."""
    code = _unsafe(key)
    if code is None and not any(key.startswith(prefix) for prefix in prefixes):
        code = Code.KEY_OUTSIDE_PREFIX
    if code is None:
        return None
    limit: int | list[str] | None = MAX_KEY_BYTES if code is Code.KEY_TOO_LONG else None
    limit = list(prefixes) if code is Code.KEY_OUTSIDE_PREFIX else limit
    return Refusal(
        code=code, field=field, message=_WORDS[code], limit=limit, key=printable_key(key)
    )


def printable_key(key: str) -> str:
    """Shorten and repair a refused key so that it can be stored, sent and printed."""
    return key.encode(errors="backslashreplace").decode()[:MAX_KEY_BYTES].replace("\0", "\\0")


def _unsafe(key: str) -> Code | None:
    if not key:
        return Code.KEY_EMPTY
    return None if is_simple_key(key) else _unusual(key) or _segments(key)


def _unusual(key: str) -> Code | None:
    try:
        size = len(key.encode())
    except UnicodeEncodeError:
        return Code.KEY_INVALID
    if size > MAX_KEY_BYTES:
        return Code.KEY_TOO_LONG
    if "${filename}" in key:
        return Code.KEY_RESERVED
    return _character(_decoded(key))


def _character(key: str) -> Code | None:
    categories = {unicodedata.category(character) for character in key}
    if "\\" in key:
        return Code.KEY_BACKSLASH
    if "Cc" in categories:
        return Code.KEY_CONTROL
    return Code.KEY_INVISIBLE if categories & _INVISIBLE else None


def _segments(key: str) -> Code | None:
    segments = _decoded(key).split("/")
    if "." in segments or ".." in segments:
        return Code.KEY_TRAVERSAL
    return Code.KEY_EMPTY_SEGMENT if "" in segments else None


def _decoded(key: str) -> str:
    # Proxies decode once, some decode twice: what any of them could come to see is what counts.
    while (plain := unquote(key)) != key:
        key = plain
    return key
