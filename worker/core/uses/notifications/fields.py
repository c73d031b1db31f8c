"""Reads the fields of a notification, which anyone who can write to the queue has chosen."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import unquote_plus

from worker.core.uses.reports import MAX_SIZE, is_storable

IgnoredRecord = Literal["malformed", "too_large", "test_event", "other_event", "copy"]
"""The reasons for which a message, or a record in it, tells of no use.

malformed: it is not a notification, or a field of it is not one. too_large: SQS carries no message
of this size. test_event: S3 sends one when notifications are configured. other_event: it stores and
deletes nothing. copy: a grant cannot copy.
"""

_MAX_KEY_BYTES = 1_024
_NO_VERSION = ("", "null")  # of an object that was stored without versioning
_is_hexadecimal = frozenset("0123456789ABCDEF").issuperset


class MalformedRecord(Exception):
    """A field that is missing, or not what it should be. The text names it."""


def nested(values: object, name: str) -> Mapping[str, Any]:
    """Return the object in a field, an empty one if there is none."""
    found = values.get(name) if isinstance(values, dict) else None
    return found if isinstance(found, dict) else {}


def text(values: Mapping[str, Any], name: str, max_length: int = 1_024) -> str | None:
    """Return the text in a field, None if there is none that the database can store."""
    value = values.get(name)
    if not isinstance(value, str) or not value or len(value) > max_length or not is_storable(value):
        return None
    return value


def required_text(values: Mapping[str, Any], name: str) -> str:
    """Return the text in a field. Raises MalformedRecord."""
    value = text(values, name)
    if value is None:
        raise MalformedRecord(name)
    return value


def size(values: Mapping[str, Any]) -> int | None:
    """Return the size in bytes, None if there is none. Raises MalformedRecord."""
    value = values.get("size")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:  # noqa: PLR2004 - digits of a size
        value = int(value)  # in the documentation of Ceph it is a text
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SIZE:
        raise MalformedRecord("size")
    return value


def moment(values: Mapping[str, Any], name: str) -> datetime:
    """Return the time in a field, in UTC. Raises MalformedRecord."""
    try:
        value = datetime.fromisoformat(required_text(values, name))
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise MalformedRecord(name) from None


def object_key(values: Mapping[str, Any], *, is_encoded: bool) -> str:
    """Return the key of an object, decoded if it is URL-encoded. Raises MalformedRecord."""
    value = values.get("key")
    if not isinstance(value, str) or not is_storable(value):
        raise MalformedRecord("key")
    try:
        key = unquote_plus(value, errors="strict") if is_encoded else value
    except UnicodeDecodeError:
        raise MalformedRecord("key") from None
    if not 0 < len(key.encode()) <= _MAX_KEY_BYTES or "\0" in key:
        raise MalformedRecord("key")
    return key


def version(values: Mapping[str, Any], name: str) -> str | None:
    """Return the version of an object, None if its bucket has none."""
    value = text(values, name)
    return None if value in _NO_VERSION else value


def etag(values: Mapping[str, Any], name: str) -> str | None:
    """Return the ETag without quotes, as a probe reads it."""
    value = text(values, name, 128)
    return value and value.strip('"')


def sequencer(values: Mapping[str, Any]) -> str:
    """Return the sequencer in a form in which the greater text is the later event of its key.

    AWS: "right pad the shorter value with zeros, and then do a lexicographical comparison"
    (notification-content-structure.html). Texts without the zeros at their end compare as such. The
    zeros at the front are those that EventBridge leaves out.
    """
    value = (text(values, "sequencer", 64) or "").upper()
    return value.strip("0") if _is_hexadecimal(value) else ""
