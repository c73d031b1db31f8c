"""Heartbeats: each worker says every few seconds, in the result store, that its loop turns.

Celery's remote control could tell as much, but anyone at the broker could use it to stop workers.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

import redis
from pydantic import TypeAdapter, ValidationError

PREFIX = "valetkey.worker:"
INTERVAL = 5  # seconds
LIFETIME = 4 * INTERVAL  # seconds after which a silent worker is no longer listed


class Heartbeat(NamedTuple):
    """The last sign of life of a worker.

    supervisor is the process id of the `worker run` that started it; queues are those that it
    consumes.
    """

    worker: str
    queues: Sequence[str]
    supervisor: int
    pid: int
    started_at: datetime
    seen_at: datetime


_HEARTBEAT = TypeAdapter(Heartbeat)


def write_heartbeat(client: Any, heartbeat: Heartbeat) -> None:
    """Write a heartbeat, unless the result store is away: the next one is due in a few seconds."""
    key = f"{PREFIX}{heartbeat.worker}:{heartbeat.pid}"
    text = json.dumps(heartbeat._asdict(), default=str)
    try:
        client.set(key, text, ex=LIFETIME)
    except (redis.RedisError, OSError):
        return


def read_heartbeats(client: Any) -> list[Heartbeat]:
    """Return the heartbeats of the workers that are alive, ordered by their names."""
    keys = sorted(client.scan_iter(match=f"{PREFIX}*", count=1_000))
    found = [_parse(text) for text in (client.mget(keys) if keys else ()) if text]
    return [heartbeat for heartbeat in found if heartbeat is not None]


def workers_by_queue(client: Any) -> dict[str, list[str]]:
    """Return the names of the workers whose heartbeat is fresh, by the queue that they consume."""
    consumers: defaultdict[str, list[str]] = defaultdict(list)
    for heartbeat in read_heartbeats(client):
        for queue in heartbeat.queues:
            consumers[queue].append(heartbeat.worker)
    return dict(consumers)


def _parse(text: bytes) -> Heartbeat | None:
    """Return the heartbeat in a value, None if it is not one: others can write there, too."""
    try:
        return _HEARTBEAT.validate_json(text)
    except ValidationError:
        return None
