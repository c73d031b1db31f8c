"""Dead-lettered messages: they caused an error in a worker, or two workers ended with them.

They are stored in the broker's Redis, so that an operator can put them back. The list is short:
only a defect of the service, or of a library, fills it.
"""

import json
import time
from hashlib import sha256
from typing import Any

from redis.exceptions import ResponseError

KEY = "valetkey.deadletters"
MAX_DEAD_LETTERS = 100
MAX_DELIVERIES = 2
MAX_BODY = 1024**2  # characters
_COUNT_SECONDS = 86_400


def count_redelivery(pipe: Any, frame: dict[str, Any]) -> None:
    """Count, in a transaction, that a frame returns to its queue because a worker ended."""
    key = _count_key(frame)
    pipe.incr(key)
    pipe.expire(key, _COUNT_SECONDS)


def read_redeliveries(client: Any, frame: dict[str, Any]) -> int:
    """Return how often a frame has returned to its queue because a worker ended."""
    try:
        return int(client.get(_count_key(frame)) or 0)
    except (ValueError, ResponseError):  # others can write there, too
        return 0


def _count_key(frame: dict[str, Any]) -> str:
    return f"valetkey.redelivered:{frame_digest(frame)}"


def frame_digest(frame: dict[str, Any]) -> str:
    """Return a name for a frame that stays the same when it is delivered again."""
    return sha256(f"{frame['headers']['id']}\n{frame['body']}".encode()).hexdigest()[:32]


def add_dead_letter(client: Any, frame: dict[str, Any], problem: str) -> str:
    """Set a frame aside, and return the id of its dead letter. Beyond 100, the oldest is lost."""
    dead_letter_id = frame_digest(frame)[:12]
    values = {
        "id": dead_letter_id,
        "queue": frame["properties"]["delivery_info"]["routing_key"],
        "task_id": frame["headers"]["id"],
        "problem": problem,
        "set_aside_at": time.time(),
        # A large one would fill the broker's memory. Without its body it cannot be put back.
        "frame": frame if len(frame["body"]) <= MAX_BODY else frame | {"body": None},
    }
    with client.pipeline() as pipe:
        pipe.lpush(KEY, json.dumps(values)).ltrim(KEY, 0, MAX_DEAD_LETTERS - 1).execute()
    return dead_letter_id
