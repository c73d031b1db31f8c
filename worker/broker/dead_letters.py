"""Dead-lettered messages: they caused an error in a worker, or two workers ended with them.

They are stored in the broker's Redis, so that an operator can put them back. The list is short:
only a defect of the service, or of a library, fills it.
"""

import json
import time
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple, cast

from redis.exceptions import ResponseError

from valetkey.wire.strict_json import parse_json

KEY = "valetkey.deadletters"
MAX_DEAD_LETTERS = 100
MAX_DELIVERIES = 2
MAX_BODY = 1024**2  # characters
_COUNT_SECONDS = 86_400


class DeadLetter(NamedTuple):
    """A dead-lettered message. problem names what happened; frame is the message itself."""

    id: str
    queue: str
    task_id: str
    problem: str
    set_aside_at: datetime
    frame: dict[str, Any]

    @property
    def bytes(self) -> int:
        """The size of the message as JSON."""
        return len(json.dumps(self.frame))


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


def count_dead_letters(client: Any) -> int:
    """Return the number of dead letters."""
    return int(client.llen(KEY))


def read_dead_letters(client: Any) -> list[DeadLetter]:
    """Return all dead letters, the newest first."""
    found = [_parse(text) for text in client.lrange(KEY, 0, -1)]
    return [dead_letter for dead_letter in found if dead_letter is not None]


def remove_dead_letters(client: Any, ids: set[str] | None, *, to_queue: bool) -> int:
    """Delete dead letters or put them back into their queues, all if ids is None; return how many.

    A dead letter that is not whole cannot be put back.
    """
    count = 0
    for text in reversed(client.lrange(KEY, 0, -1)):
        dead_letter = _parse(text)
        if ids is None or (dead_letter is not None and dead_letter.id in ids):
            count += _remove(client, text, dead_letter, to_queue=to_queue)
    return count


def _remove(client: Any, text: bytes, dead_letter: DeadLetter | None, *, to_queue: bool) -> int:
    if to_queue and (dead_letter is None or dead_letter.frame["body"] is None):
        return 0
    with client.pipeline() as pipe:
        pipe.lrem(KEY, 1, cast("str", text))
        if to_queue and dead_letter is not None:
            # A fresh start: not counted as another delivery.
            pipe.delete(_count_key(dead_letter.frame))
            dead_letter.frame["properties"]["delivery_info"]["redelivered"] = False
            pipe.lpush(dead_letter.queue, json.dumps(dead_letter.frame))
        return int(pipe.execute()[0])


def _parse(text: bytes) -> DeadLetter | None:
    """Return the dead letter in a value, None if it is not one: others can write there, too."""
    try:
        values = parse_json(text)
        values["set_aside_at"] = datetime.fromtimestamp(values["set_aside_at"], UTC)
        dead_letter = DeadLetter(**values)
        _ = dead_letter.frame["body"], frame_digest(dead_letter.frame)
    except (ValueError, TypeError, LookupError, OverflowError):
        return None
    return dead_letter
