"""Heartbeats: each worker says every few seconds, in the result store, that its loop turns.

Celery's remote control could tell as much, but anyone at the broker could use it to stop workers.
"""

import json
import os
import signal
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import redis
import structlog
from celery import Celery
from celery.worker import state
from pydantic import TypeAdapter, ValidationError

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


class Heart:
    """Writes the heartbeats of this process, from the loop that consumes messages."""

    def __init__(self, app: Celery, supervisor: int) -> None:
        self._app = app
        self._supervisor = supervisor
        self._started_at = datetime.now(UTC)
        self._timer: Any = None

    def start(self, consumer: Any) -> None:
        """Write a heartbeat now and every few seconds. Celery calls this at each connection."""
        is_stuck = _StuckCheck(consumer)

        def beat() -> None:
            if is_stuck():
                os.kill(os.getpid(), signal.SIGTERM)  # the supervisor starts it again
            else:
                write_heartbeat(self._app.backend.client, self._heartbeat(consumer))

        if self._timer is not None:
            self._timer.cancel()
        beat()
        self._timer = consumer.timer.call_repeatedly(INTERVAL, beat)

    def _heartbeat(self, consumer: Any) -> Heartbeat:
        queues = sorted(queue.name for queue in consumer.task_consumer.queues)
        return Heartbeat(
            consumer.hostname,
            queues,
            self._supervisor,
            os.getpid(),
            self._started_at,
            datetime.now(UTC),
        )


_HEARTBEAT = TypeAdapter(Heartbeat)


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
