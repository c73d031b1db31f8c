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
import structlog
from celery import Celery
from celery.worker import state

PREFIX = "valetkey.worker:"
INTERVAL = 5  # seconds
LIFETIME = 4 * INTERVAL  # seconds after which a silent worker is no longer listed
MAX_IDLE_BEATS = 6  # in a row, after which a worker that takes no messages is stuck

log = structlog.get_logger()


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
    started_at, supervisor, is_stuck = datetime.now(UTC), os.getppid(), _StuckCheck(consumer)

    def beat() -> None:
        if os.getppid() != supervisor or is_stuck():
            # Without a supervisor, nobody would restart this worker, or stop it.
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


class _StuckCheck:
    """Tells whether a worker takes no messages although it works on none, for half a minute.

    Celery can lose count of its messages when a connection breaks. Its loop turns all the same.
    """

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._beats = 0

    def __call__(self) -> bool:
        is_idle = not (state.active_requests or state.reserved_requests)
        takes_none = not self._consumer.task_consumer.channel.qos.can_consume()
        self._beats = self._beats + 1 if is_idle and takes_none else 0
        if self._beats >= MAX_IDLE_BEATS:
            log.error("worker_stuck", worker=self._consumer.hostname)
        return self._beats >= MAX_IDLE_BEATS


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
