"""Reads and checks messages: their frames, as kombu stores them in Redis, their headers and bodies.

Anyone who can write to the broker chooses every byte of a frame. kombu and Celery read frames
outside of any task, where an unexpected value ends the whole worker. So a frame is checked before
they see it, and only the parts that the service uses are passed on.

Sources: kombu's virtual transport; Celery, "Message Protocol", version 2.
"""

import re
import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from valetkey.delivery.tracing import TRACEPARENT
from valetkey.wire import ISSUE_TASK
from valetkey.wire.strict_json import decode_base64, parse_json

# 4 MiB of signed content grow by 16/9 in two layers of base64; the rest is for the headers.
MAX_FRAME_BYTES = 8 * 1024**2
MAX_ID_LENGTH = 255
_MAX_FRAME_MEMBERS = 32
_MAX_HEADERS = 64
_EDGE = timedelta(days=2)  # more than any conversion between time zones moves a time
# The worker keeps a message in memory until its eta, and Redis delivers it again after the
# visibility timeout.
MAX_ETA_DELAY = timedelta(seconds=120)
_MAX_SENT_AT = 10**16  # milliseconds; a longer number is no time


class InvalidMessage(Exception):
    """A message that is not passed on to Celery.

    part names the invalid part of the message, and never contains its value. task_id is the id of
    the sender's task, None if it has no readable one.
    """

    def __init__(self, part: str, task_id: str | None = None) -> None:
        super().__init__(part)
        self.part = part
        self.task_id = task_id


class ExpiredMessage(InvalidMessage):
    """A valid message whose time to wait is over."""


def _check_printable(value: str) -> str:
    if not value.isprintable():
        raise ValueError
    return value


def _parse_time(value: Any) -> datetime:
    """Return an ISO 8601 time in UTC, which Celery can convert to any time zone."""
    try:
        time = datetime.fromisoformat(value)
        time = (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        _ = time - _EDGE, time + _EDGE
    except (TypeError, OverflowError):
        raise ValueError from None
    return time


def _parse_traceparent(value: Any) -> str | None:
    """Return a valid header, None if there is none, or "" for another one, which is ignored."""
    is_valid = value is None or (isinstance(value, str) and TRACEPARENT.fullmatch(value))
    return value if is_valid else ""


_Id = Annotated[
    str, Field(min_length=1, max_length=MAX_ID_LENGTH), AfterValidator(_check_printable)
]
_Text = Annotated[str, Field(max_length=4_096)] | None
_Count = Annotated[int, Field(ge=0, le=2**31)] | None
_Seconds = Annotated[float, Field(gt=0, le=86_400)] | None
_Time = Annotated[datetime, BeforeValidator(_parse_time)] | None


class _Part(BaseModel):
    """A part of a frame. Other members, as libraries add them, are dropped."""

    model_config = ConfigDict(strict=True)


class _Headers(_Part):
    """Celery's headers. Most are checked only: a group or a time limit has no use in a request."""

    task: _Id
    id: _Id
    lang: _Text = None
    root_id: _Id | None = None
    parent_id: _Id | None = None
    group: _Text = None
    group_index: _Count = None
    shadow: _Text = None
    retries: Annotated[int, Field(ge=0, le=20)] | None = None
    timelimit: Annotated[list[_Seconds], Field(min_length=2, max_length=2)] | None = None
    # Some libraries write whole messages here. The size of the frame bounds them.
    argsrepr: str | None = None
    kwargsrepr: str | None = None
    origin: _Text = None
    ignore_result: bool | None = None
    replaced_task_nesting: _Count = None
    stamped_headers: Annotated[list[_Text], Field(max_length=_MAX_HEADERS)] | None = None
    stamps: Annotated[dict[str, Any], Field(max_length=_MAX_HEADERS)] | None = None
    compression: Literal[""] | None = None
    eta: _Time = None
    expires: _Time = None
    traceparent: Annotated[str | None, BeforeValidator(_parse_traceparent)] = None
    sent_at: Any = None  # only measured: one that is no time is dropped


class _Properties(_Part):
    correlation_id: _Text = None
    reply_to: _Text = None
    delivery_info: dict[str, Any] | None = None
    priority: Annotated[int, Field(ge=0, le=255)] | None = None
    body_encoding: Literal["base64", "utf-8"] | None = None


class _Frame(_Part):
    content_type: Literal["application/json"] = Field(alias="content-type")
    content_encoding: str = Field(alias="content-encoding", pattern="(?i)^utf-?8$")
    headers: _Headers
    properties: _Properties
    body: str = Field(min_length=1)


def read_frame(data: bytes, queue: str, now: datetime) -> dict[str, Any]:
    """Return a frame with nothing but what the service uses, its body as text.

    The delivery tag is new, because a frame with the tag of another one would replace it in Redis
    while both are processed. queue is the queue that the frame was in: it returns to no other.
    Raises InvalidMessage.
    """
    values = _parse_frame(data)
    try:
        frame = _Frame.model_validate(values)
    except ValidationError as error:
        # Without the positions in a list, which may follow.
        paths = [each["loc"][:2] for each in error.errors(include_input=False)]
        is_known = not {("headers",), ("headers", "id")}.intersection(paths)
        task_id = values["headers"]["id"] if is_known else None
        raise InvalidMessage(str(paths[0][-1]), task_id) from None
    if len(values["headers"]) > _MAX_HEADERS:
        raise InvalidMessage("headers", frame.headers.id)
    try:
        return _clean_frame(frame, queue, now)
    except InvalidMessage as error:
        raise type(error)(error.part, frame.headers.id) from None


def _clean_frame(frame: _Frame, queue: str, now: datetime) -> dict[str, Any]:
    delivery = frame.properties.delivery_info or {}
    return {
        "body": _decode_body(frame),
        "content-type": frame.content_type,
        "content-encoding": "utf-8",
        "headers": _clean_headers(frame.headers, now),
        "properties": {
            "correlation_id": frame.headers.id,
            "delivery_mode": 2,
            "delivery_info": {
                "exchange": "",
                "routing_key": queue,
                "redelivered": delivery.get("redelivered") is True,
            },
            "priority": min(frame.properties.priority or 0, 9),  # Redis has no others
            "body_encoding": "utf-8",
            "delivery_tag": str(uuid.uuid4()),
        },
    }


def parse_unacked(entry: bytes) -> tuple[dict[str, Any], str]:
    """Return the frame and queue of a message that a worker took, as kombu notes it in Redis.

    Raises InvalidMessage for an entry that no worker wrote.
    """
    try:
        match parse_json(entry):
            case [{"properties": {"delivery_info": dict()}} as frame, "", str(queue)] if (
                queue and queue.isprintable()
            ):
                _Frame.model_validate(frame)
                _check_values(frame)  # JSON that can be read may be too deep to be written
                return frame, queue
    except (ValueError, InvalidMessage):
        pass
    raise InvalidMessage("unacked")


def _parse_frame(data: bytes) -> dict[str, Any]:
    if len(data) > MAX_FRAME_BYTES:
        raise InvalidMessage("size")
    try:
        frame = parse_json(data)
    except ValueError:
        raise InvalidMessage("json") from None
    if not isinstance(frame, dict) or len(frame) > _MAX_FRAME_MEMBERS:
        raise InvalidMessage("json")
    return frame


def _clean_headers(headers: _Headers, now: datetime) -> dict[str, Any]:
    """Return the headers that the service uses. Raises InvalidMessage."""
    if headers.eta is not None and headers.eta > now + MAX_ETA_DELAY:
        raise InvalidMessage("eta")
    # A late trigger of a job does no harm.
    if headers.expires is not None and headers.expires <= now and headers.task == ISSUE_TASK:
        raise ExpiredMessage("expires")
    sent_at = headers.sent_at
    is_time = type(sent_at) is int and 0 <= sent_at < _MAX_SENT_AT
    return {
        **({"sent_at": sent_at} if is_time else {}),
        "lang": "py",
        "task": headers.task,
        "id": headers.id,
        "root_id": headers.root_id or headers.id,
        "parent_id": headers.parent_id,
        "retries": headers.retries or 0,
        "ignore_result": headers.ignore_result or False,
        # The service delays what it retries. A producer that delays messages would let a worker
        # take them all, beyond its limit, and process them before those of other tenants.
        "eta": headers.eta.isoformat() if headers.eta is not None and headers.retries else None,
        # Celery would refuse every later message with the id of an expired one.
        "expires": None,
        # Celery logs them, and the sender may have written object keys into them.
        "argsrepr": "(message)",
        "kwargsrepr": "{}",
        "traceparent": headers.traceparent,
    }


def _decode_body(frame: _Frame) -> str:
    if frame.properties.body_encoding != "base64":
        return frame.body
    try:
        return decode_base64(frame.body).decode()
    except ValueError:
        raise InvalidMessage("body") from None


# A request has about eight levels. The worker copies a body to another process, where more than
# some hundred levels end it.
MAX_BODY_DEPTH = 32
# A message of 1,000 items has fewer. Each costs more than 50 bytes of memory, and in JSON only two.
MAX_BODY_CONTAINERS = 20_000
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
# kombu makes a value of another type of such an object, or fails. No request has one.
_KOMBU_TYPE = {"__type__", "__value__"}
# Celery would send the answer, in clear, to other tasks.
_UNUSED_OPTIONS = ("callbacks", "errbacks", "chain", "chord")


def check_body(body: bytes) -> Any:
    """Return the parsed body: the call of a task without follow-up, and of a limited size.

    Raises InvalidMessage.
    """
    _check_size(body)
    try:
        call = parse_json(body)
    except ValueError:
        raise InvalidMessage("body") from None
    match call:
        case [list(), dict(), dict() | None as options]:
            pass
        case _:
            raise InvalidMessage("body")
    for name in _UNUSED_OPTIONS:
        if options and options.get(name):
            raise InvalidMessage(name)
    _check_values(call)
    return call


def _check_size(body: bytes) -> None:
    """Refuse JSON that would take much more memory than its text."""
    if _count_containers(body) > MAX_BODY_CONTAINERS and (
        _count_containers(_STRING.sub(b"", body)) > MAX_BODY_CONTAINERS
    ):
        raise InvalidMessage("body")


def _count_containers(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _check_values(call: Any) -> None:
    level: list[Any] = [call]
    for _ in range(MAX_BODY_DEPTH):
        if any(isinstance(each, dict) and each.keys() == _KOMBU_TYPE for each in level):
            raise InvalidMessage("body")
        level = [value for parent in level for value in _children(parent)]
        if not level:
            return
    raise InvalidMessage("body")


def _children(parent: Any) -> Iterable[Any]:
    values = parent.values() if isinstance(parent, Mapping) else parent
    return (value for value in values if isinstance(value, list | dict))
