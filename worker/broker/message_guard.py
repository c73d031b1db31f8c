"""Reads and checks messages: their frames, as kombu stores them in Redis, their headers and bodies.

Anyone who can write to the broker chooses every byte of a frame. kombu and Celery read frames
outside of any task, where an unexpected value ends the whole worker. So a frame is checked before
they see it, and only the parts that the service uses are passed on.

Sources: kombu's virtual transport; Celery, "Message Protocol", version 2.
"""

import json
import re
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from valetkey.wire.messages import ISSUE_TASK

MAX_ID_LENGTH = 255
_MAX_TEXT_LENGTH = 4_096
_MAX_HEADERS = 64
_MAX_RETRIES = 20
_MAX_TIME_LIMIT = 86_400  # seconds
_MAX_PRIORITY = 255
_EDGE = timedelta(days=2)  # more than any conversion between time zones moves a time
# The worker keeps a message in memory until its eta, and Redis delivers it again after the
# visibility timeout.
MAX_ETA_DELAY = timedelta(seconds=120)


class InvalidMessage(Exception):
    """A message that is not passed on to Celery.

    part names the invalid part of the message, and never contains its value. task_id is the id of
    the sender's task, None if it has no readable one.
    """

    def __init__(self, part: str, task_id: str | None = None) -> None:
        super().__init__(part)
        self.part = part
        self.task_id = task_id


def clean_headers(headers: Any, now: datetime) -> dict[str, Any]:
    """Return the headers that the service uses. Raises InvalidMessage.

    Celery's other headers are checked and removed: a group, a stamp or a time limit has no use in
    a request. Headers that Celery does not know, as tracing libraries add them, are removed.
    """
    if not isinstance(headers, Mapping) or len(headers) > _MAX_HEADERS:
        raise InvalidMessage("headers")
    for name, is_valid in _ALLOWED.items():
        if not is_valid(headers.get(name)):
            raise InvalidMessage(name)
    if headers.get("compression"):
        raise InvalidMessage("compression")
    retries = headers.get("retries") or 0
    eta = _parse_eta(headers, now)
    _check_expiry(headers, now)
    return {
        "lang": "py",
        "task": headers["task"],
        "id": headers["id"],
        "root_id": headers.get("root_id") or headers["id"],
        "parent_id": headers.get("parent_id"),
        "retries": retries,
        "ignore_result": headers.get("ignore_result") or False,
        # The service delays what it retries. A producer that delays messages would let a worker
        # take them all, beyond its limit, and process them before those of other tenants.
        "eta": eta.isoformat() if eta is not None and retries else None,
        # Celery would refuse every later message with the id of an expired one.
        "expires": None,
        # Celery logs them, and the sender may have written object keys into them.
        "argsrepr": "(message)",
        "kwargsrepr": "{}",
    }


def clean_priority(value: Any) -> int:
    """Return a message's priority as Redis has it, 0 to 9. Raises InvalidMessage."""
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= _MAX_PRIORITY:
        raise InvalidMessage("priority")
    return min(value, 9)


def is_id(value: Any) -> bool:
    """Return true for a printable text that can be the id of a task."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_LENGTH and value.isprintable()


def is_text(value: Any) -> bool:
    """Return true for a text of bounded length."""
    return isinstance(value, str) and len(value) <= _MAX_TEXT_LENGTH


def _parse_eta(headers: Mapping[str, Any], now: datetime) -> datetime | None:
    eta = _parse_time(headers, "eta")
    if eta is not None and eta > now + MAX_ETA_DELAY:
        raise InvalidMessage("eta")
    return eta


def _check_expiry(headers: Mapping[str, Any], now: datetime) -> None:
    expires = _parse_time(headers, "expires")
    # A late trigger of a job does no harm.
    if expires is not None and expires <= now and headers["task"] == ISSUE_TASK:
        raise InvalidMessage("expires")


def _parse_time(headers: Mapping[str, Any], name: str) -> datetime | None:
    """Return an ISO 8601 time in UTC, which Celery can convert to any time zone."""
    value = headers.get(name)
    if value is None:
        return None
    try:
        time = datetime.fromisoformat(value)
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        _ = time - _EDGE, time + _EDGE
    except (TypeError, ValueError, OverflowError):
        raise InvalidMessage(name) from None
    return time


def _is_optional(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or is_valid(value)


def _is_count(maximum: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value <= maximum


def _is_time_limits(value: Any) -> bool:
    match value:
        case [None | int() | float(), None | int() | float()]:
            return all(limit is None or 0 < limit <= _MAX_TIME_LIMIT for limit in value)
    return False


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MAX_HEADERS and all(map(is_text, value))


def _is_stamps(value: Any) -> bool:
    return isinstance(value, Mapping) and len(value) <= _MAX_HEADERS


_is_optional_text = _is_optional(is_text)
_is_optional_id = _is_optional(is_id)
_ALLOWED: dict[str, Callable[[Any], bool]] = {
    "task": is_id,
    "id": is_id,
    "lang": _is_optional_text,
    "root_id": _is_optional_id,
    "parent_id": _is_optional_id,
    "group": _is_optional_text,
    "group_index": _is_optional(_is_count(2**31)),
    "shadow": _is_optional_text,
    "retries": _is_optional(_is_count(_MAX_RETRIES)),
    "timelimit": _is_optional(_is_time_limits),
    # Some libraries write whole messages here. The size of the frame bounds them.
    "argsrepr": _is_optional(lambda value: isinstance(value, str)),
    "kwargsrepr": _is_optional(lambda value: isinstance(value, str)),
    "origin": _is_optional_text,
    "ignore_result": _is_optional(lambda value: isinstance(value, bool)),
    "replaced_task_nesting": _is_optional(_is_count(2**31)),
    "stamped_headers": _is_optional(_is_names),
    "stamps": _is_optional(_is_stamps),
}


# 4 MiB of signed content grow by 16/9 in two layers of base64; the rest is for the headers.
MAX_FRAME_BYTES = 8 * 1024**2
_CONTENT_TYPE = "application/json"
_CONTENT_ENCODINGS = ("utf-8", "utf8")
_MAX_FRAME_MEMBERS = 32


def read_frame(data: bytes, queue: str, now: datetime) -> dict[str, Any]:
    """Return a frame with nothing but what the service uses, its body as text.

    The delivery tag is new, because a frame with the tag of another one would replace it in Redis
    while both are processed. queue is the queue that the frame was in: it returns to no other.
    Raises InvalidMessage.
    """
    frame = _parse_frame(data)
    try:
        return _clean_frame(frame, queue, now)
    except InvalidMessage as error:
        raise InvalidMessage(error.part, _task_id(frame.get("headers"))) from None


def _parse_frame(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_FRAME_BYTES:
        raise InvalidMessage("size")
    try:
        # Others read the first of two equal members.
        frame = json.loads(data, object_pairs_hook=_unique_members)
    except (ValueError, RecursionError):
        raise InvalidMessage("json") from None
    if not isinstance(frame, dict) or len(frame) > _MAX_FRAME_MEMBERS:
        raise InvalidMessage("json")
    return frame


def _clean_frame(frame: Mapping[str, Any], queue: str, now: datetime) -> dict[str, Any]:
    _check_content(frame)
    headers = clean_headers(frame.get("headers"), now)
    properties = frame.get("properties")
    if not isinstance(properties, Mapping):
        raise InvalidMessage("properties")
    return {
        "body": _decode_body(frame.get("body"), properties.get("body_encoding")),
        "content-type": _CONTENT_TYPE,
        "content-encoding": "utf-8",
        "headers": headers,
        "properties": _clean_properties(properties, headers["id"], queue),
    }


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError
    return members


def _task_id(headers: Any) -> str | None:
    task_id = headers.get("id") if isinstance(headers, Mapping) else None
    return task_id if is_id(task_id) else None


def _check_content(frame: Mapping[str, Any]) -> None:
    if frame.get("content-type") != _CONTENT_TYPE:
        raise InvalidMessage("content-type")
    encoding = frame.get("content-encoding")
    if not isinstance(encoding, str) or encoding.lower() not in _CONTENT_ENCODINGS:
        raise InvalidMessage("content-encoding")


def _decode_body(body: Any, encoding: Any) -> str:
    if not isinstance(body, str) or not body:
        raise InvalidMessage("body")
    try:
        if encoding == "base64":
            return b64decode(body).decode()
        if encoding in (None, "utf-8"):
            body.encode()
            return body
    except (ValueError, TypeError):
        raise InvalidMessage("body") from None
    raise InvalidMessage("body_encoding")


def _clean_properties(properties: Mapping[str, Any], task_id: str, queue: str) -> dict[str, Any]:
    for name in ("correlation_id", "reply_to"):
        if not (properties.get(name) is None or is_text(properties[name])):
            raise InvalidMessage(name)
    delivery = properties.get("delivery_info") or {}
    if not isinstance(delivery, Mapping):
        raise InvalidMessage("delivery_info")
    return {
        "correlation_id": task_id,
        "delivery_mode": 2,
        "delivery_info": {
            "exchange": "",
            "routing_key": queue,
            "redelivered": delivery.get("redelivered") is True,
        },
        "priority": clean_priority(properties.get("priority")),
        "body_encoding": "utf-8",
        "delivery_tag": str(uuid.uuid4()),
    }


# A request has about eight levels. The worker copies a body to another process, where more than
# some hundred levels end it.
MAX_BODY_DEPTH = 32
# A message of 1,000 items has fewer. Each costs more than 50 bytes of memory, and in JSON only two.
MAX_BODY_CONTAINERS = 20_000
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
# Celery would send the answer, in clear, to other tasks.
_UNUSED_OPTIONS = ("callbacks", "errbacks", "chain", "chord")


def check_body_size(body: bytes) -> None:
    """Refuse JSON that would take much more memory than its text. Raises InvalidMessage."""
    if _count_containers(body) > MAX_BODY_CONTAINERS and (
        _count_containers(_STRING.sub(b"", body)) > MAX_BODY_CONTAINERS
    ):
        raise InvalidMessage("body")


def check_call(call: Any) -> None:
    """Refuse decoded JSON that is not a call of a task without follow-up. Raises InvalidMessage."""
    match call:
        case [list(), dict(), dict() | None as options]:
            pass
        case _:
            raise InvalidMessage("body")
    for name in _UNUSED_OPTIONS:
        if options and options.get(name):
            raise InvalidMessage(name)
    _check_depth(call)


def _count_containers(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _check_depth(call: Any) -> None:
    level: list[Any] = [call]
    for _ in range(MAX_BODY_DEPTH):
        level = [value for parent in level for value in _children(parent)]
        if not level:
            return
    raise InvalidMessage("body")


def _children(parent: Any) -> Iterable[Any]:
    values = parent.values() if isinstance(parent, Mapping) else parent
    return (value for value in values if isinstance(value, list | dict))
