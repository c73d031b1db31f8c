"""Frames as kombu stores them in Redis."""

import json
from base64 import b64encode
from typing import Any

from tests.support.builders.messages import grant_message
from valetkey.wire import INTERACTIVE_QUEUE, ISSUE_TASK

TASK_ID = "0199a000-0000-7000-8000-00000000abcd"


def celery_headers(**changes: Any) -> dict[str, Any]:
    """Return the headers that Celery 5.7 sends with a task."""
    headers: dict[str, Any] = {
        "lang": "py",
        "task": ISSUE_TASK,
        "id": TASK_ID,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": TASK_ID,
        "parent_id": None,
        "argsrepr": "(message)",
        "kwargsrepr": "{}",
        "origin": "gen1@host",
        "ignore_result": False,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    return headers | changes


def call_text(*args: Any, **options: Any) -> str:
    """Return the body of a task with these arguments, and with these options of Celery's canvas."""
    canvas = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    return json.dumps([list(args), {}, canvas | options])


def build_frame(
    text: str | None = None,
    headers: dict[str, Any] | None = None,
    properties: dict[str, Any] | None = None,
    **members: Any,
) -> dict[str, Any]:
    """Return the frame of a body, or of a request; members replaces whole parts of it."""
    body = call_text(grant_message()) if text is None else text
    frame = {
        "body": b64encode(body.encode(errors="surrogatepass")).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": celery_headers() if headers is None else headers,
        "properties": {
            "correlation_id": TASK_ID,
            "reply_to": "7c1f0f3a-reply",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": INTERACTIVE_QUEUE},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "b24c5d4e-tag",
        }
        | (properties or {}),
    }
    return frame | {name.replace("_", "-"): value for name, value in members.items()}


def message_frame(argument: Any, task_id: str, queue: str = INTERACTIVE_QUEUE) -> str:
    """Return the text of the frame of a task with this argument and id in a queue."""
    headers = celery_headers(id=task_id, root_id=task_id)
    delivery = {"delivery_info": {"exchange": "", "routing_key": queue}}
    return json.dumps(build_frame(call_text(argument), headers, delivery))
