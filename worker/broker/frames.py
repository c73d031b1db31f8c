"""Reads frames: the JSON objects in which kombu stores messages in Redis.

Anyone who can write to the broker chooses every byte of a frame. kombu and Celery read frames
outside of any task, where an unexpected value ends the whole worker. So a frame is checked before
they see it, and only the parts that the service uses are passed on.

Sources: kombu's virtual transport; Celery, "Message Protocol", version 2.
"""

import json
import uuid
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from worker.broker.headers import InvalidMessage, clean_headers, clean_priority, is_id, is_text

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
    frame = _parse(data)
    try:
        return _clean(frame, queue, now)
    except InvalidMessage as error:
        raise InvalidMessage(error.part, _task_id(frame.get("headers"))) from None


def _parse(data: bytes) -> dict[str, Any]:
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


def _clean(frame: Mapping[str, Any], queue: str, now: datetime) -> dict[str, Any]:
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
