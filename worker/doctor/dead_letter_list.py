"""Counts, lists and removes dead letters."""

import json
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from valetkey.wire.strict_json import parse_json
from worker.broker.dead_letters import KEY, _count_key, frame_digest


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
