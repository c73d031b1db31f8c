"""Heartbeats: each worker says every few seconds, in the result store, that its loop turns.

Celery's remote control could tell as much, but anyone at the broker could use it to stop workers.
"""

import json
import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import redis
from celery import Celery

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


def start_heartbeat(consumer: Any, app: Celery) -> None:
    """Write a heartbeat now and every few seconds, from the loop that consumes messages."""
    started_at, supervisor = datetime.now(UTC), os.getppid()

    def beat() -> None:
        if os.getppid() != supervisor:
            # Nobody would restart this worker, or stop it.
            os.kill(os.getpid(), signal.SIGTERM)
            return
        heartbeat = Heartbeat(
            consumer.hostname,
            sorted(queue.name for queue in consumer.task_consumer.queues),
            supervisor,
            os.getpid(),
            started_at,
            datetime.now(UTC),
        )
        _write(heartbeat, app)

    beat()
    consumer.timer.call_repeatedly(INTERVAL, beat)


def _write(heartbeat: Heartbeat, app: Celery) -> None:
    key, text = PREFIX + heartbeat.worker, json.dumps(heartbeat._asdict(), default=str)
    try:
        app.backend.client.set(key, text, ex=LIFETIME)
    except (redis.RedisError, OSError):
        return  # the next one is due in a few seconds


def read_heartbeats(client: Any) -> list[Heartbeat]:
    """Return the heartbeats of the workers that are alive, ordered by their names."""
    keys = sorted(client.scan_iter(match=f"{PREFIX}*", count=1_000))
    values = [json.loads(text) for text in (client.mget(keys) if keys else ()) if text]
    return [
        Heartbeat(
            **value
            | {name: datetime.fromisoformat(value[name]) for name in ("started_at", "seen_at")}
        )
        for value in values
    ]
