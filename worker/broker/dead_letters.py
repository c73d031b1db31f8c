"""Messages that were set aside because a worker process ended while it had them.

They are stored in the broker's Redis, whole, so that an operator can put them back. The list is
short: only a defect of the service, or of a library, fills it.
"""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple, cast

KEY = "valetkey.deadletters"
MAX_DEAD_LETTERS = 100
MAX_DELIVERIES = 2
_COUNT_SECONDS = 86_400


class DeadLetter(NamedTuple):
    """A message that was set aside. problem names what happened; frame is the message itself."""

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


def count_redelivery(client: Any, frame: dict[str, Any]) -> int:
    """Count that a frame is delivered again; return the number of deliveries before this one."""
    key = f"valetkey.redelivered:{frame_digest(frame)}"
    with client.pipeline() as pipe:
        count, _ = pipe.incr(key).expire(key, _COUNT_SECONDS).execute()
    return int(count)


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
        "frame": frame,
    }
    with client.pipeline() as pipe:
        pipe.lpush(KEY, json.dumps(values)).ltrim(KEY, 0, MAX_DEAD_LETTERS - 1).execute()
    return dead_letter_id


def read_dead_letters(client: Any) -> list[DeadLetter]:
    """Return all dead letters, the newest first."""
    return [_parse(text) for text in client.lrange(KEY, 0, -1)]


def requeue_dead_letters(client: Any, ids: set[str] | None) -> int:
    """Put dead letters back into their queues, all if ids is None; return their number."""
    return sum(_move(client, text, to_queue=True) for text in _texts(client, ids))


def purge_dead_letters(client: Any, ids: set[str] | None) -> int:
    """Delete dead letters, all if ids is None; return their number."""
    return sum(_move(client, text, to_queue=False) for text in _texts(client, ids))


def _texts(client: Any, ids: set[str] | None) -> Iterator[bytes]:
    for text in reversed(client.lrange(KEY, 0, -1)):
        if ids is None or _parse(text).id in ids:
            yield text


def _move(client: Any, text: bytes, *, to_queue: bool) -> int:
    dead_letter = _parse(text)
    with client.pipeline() as pipe:
        pipe.lrem(KEY, 1, cast("str", text))
        if to_queue:
            # A fresh start: not counted as another delivery.
            pipe.delete(f"valetkey.redelivered:{frame_digest(dead_letter.frame)}")
            dead_letter.frame["properties"]["delivery_info"]["redelivered"] = False
            pipe.lpush(dead_letter.queue, json.dumps(dead_letter.frame))
        return int(pipe.execute()[0])


def _parse(text: bytes) -> DeadLetter:
    values = json.loads(text)
    time_set = datetime.fromtimestamp(values.pop("set_aside_at"), UTC)
    return DeadLetter(**values, set_aside_at=time_set)
