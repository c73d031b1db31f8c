"""Checks object keys. Only keys that every server and client reads in the same way are signed."""

import re
import unicodedata
from collections.abc import Iterable
from urllib.parse import unquote

from valetkey.wire.refusals import Code, Refusal

MAX_KEY_BYTES = 1_024  # bytes of UTF-8; AWS: object-keys.html
# Nearly all keys match: segments of these characters that do not start with a dot.
_SEGMENT = "[A-Za-z0-9_+=@:,!~ -][A-Za-z0-9_.+=@:,!~ -]*"
_match_simple_key = re.compile(f"{_SEGMENT}(?:/{_SEGMENT})*").fullmatch
_INVISIBLE_CATEGORIES = frozenset({"Cf", "Zl", "Zp"})
_MESSAGES = {
    Code.KEY_EMPTY: "a key needs at least one character",
    Code.KEY_TOO_LONG: "a key has at most 1,024 bytes of UTF-8: shorten it",
    Code.KEY_INVALID: "a key must be text that UTF-8 can encode: remove lone surrogates",
    Code.KEY_BACKSLASH: "a key has no backslash, because some servers read it as a slash",
    Code.KEY_CONTROL: "a key has no control characters, percent-encoded or not",
    Code.KEY_INVISIBLE: "a key has no invisible or direction-changing characters",
    Code.KEY_EMPTY_SEGMENT: "a key does not start or end with a slash or have two in a row",
    Code.KEY_TRAVERSAL: "a key has no segment '.' or '..', percent-encoded or not",
    Code.KEY_RESERVED: (
        "a key has no ${filename}, because storage replaces it with a name of the sender's choice"
    ),
    Code.KEY_OUTSIDE_PREFIX: "the key must start with a prefix that the tenant's policy allows",
}


def is_simple_key(object_key: str) -> bool:
    """Return True if a key matches a pattern of safe keys. Does not check prefixes."""
    return len(object_key) <= MAX_KEY_BYTES and _match_simple_key(object_key) is not None


def key_refusal(object_key: str, prefixes: Iterable[str], field: str) -> Refusal | None:
    """Return the refusal of a key that is unsafe or has none of the prefixes, or None.

    field is the key's location in the message.
    """
    code = _find_violation(object_key)
    if code is None and not object_key.startswith(tuple(prefixes)):
        code = Code.KEY_OUTSIDE_PREFIX
    if code is None:
        return None
    limit: int | list[str] | None = MAX_KEY_BYTES if code is Code.KEY_TOO_LONG else None
    limit = list(prefixes) if code is Code.KEY_OUTSIDE_PREFIX else limit
    return Refusal(
        code=code, field=field, message=_MESSAGES[code], limit=limit, key=printable_key(object_key)
    )


def printable_key(object_key: str) -> str:
    """Return a refused key in a form that can be stored, sent and printed, cut at 1,024 characters.

    Lone surrogates and NUL are escaped.
    """
    text = object_key.encode(errors="backslashreplace").decode()
    return text[:MAX_KEY_BYTES].replace("\0", "\\0")


def _find_violation(object_key: str) -> Code | None:
    if not object_key:
        return Code.KEY_EMPTY
    if is_simple_key(object_key):
        return None
    return _find_text_violation(object_key) or _find_segment_violation(object_key)


def _find_text_violation(object_key: str) -> Code | None:
    try:
        size = len(object_key.encode())
    except UnicodeEncodeError:
        return Code.KEY_INVALID
    if size > MAX_KEY_BYTES:
        return Code.KEY_TOO_LONG
    if "${filename}" in object_key:
        return Code.KEY_RESERVED
    return _find_character_violation(decode_percent(object_key))


def _find_character_violation(decoded_key: str) -> Code | None:
    categories = {unicodedata.category(character) for character in decoded_key}
    if "\\" in decoded_key:
        return Code.KEY_BACKSLASH
    if "Cc" in categories:
        return Code.KEY_CONTROL
    return Code.KEY_INVISIBLE if categories & _INVISIBLE_CATEGORIES else None


def _find_segment_violation(object_key: str) -> Code | None:
    segments = decode_percent(object_key).split("/")
    if "." in segments or ".." in segments:
        return Code.KEY_TRAVERSAL
    return Code.KEY_EMPTY_SEGMENT if "" in segments else None


def decode_percent(text: str) -> str:
    """Decode a text until nothing is encoded: a key is safe however often a proxy decodes it."""
    while (decoded := unquote(text)) != text:
        text = decoded
    return text
