"""Builds frames: messages as kombu stores them in Redis."""

import json
from base64 import b64encode
from typing import Any
from uuid import uuid4

from valetkey.wire.messages import INTERACTIVE_QUEUE, ISSUE_TASK


def message_frame(argument: Any, task_id: str | None = None, queue: str = INTERACTIVE_QUEUE) -> str:
    """Return the frame of one message for the issuing task, as Celery's client writes it."""
    task_id = task_id or str(uuid4())
    options = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    frame = {
        "body": b64encode(json.dumps([[argument], {}, options]).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            "lang": "py",
            "task": ISSUE_TASK,
            "id": task_id,
            "root_id": task_id,
            "parent_id": None,
            "group": None,
            "shadow": None,
            "eta": None,
            "expires": None,
            "retries": 0,
            "timelimit": [None, None],
            "argsrepr": "(message)",
            "kwargsrepr": "{}",
            "origin": "tests",
            "ignore_result": False,
        },
        "properties": {
            "correlation_id": task_id,
            "reply_to": str(uuid4()),
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid4()),
        },
    }
    return json.dumps(frame)
