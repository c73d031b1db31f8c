"""Connects a client that waits in its own thread to the broker and the result store."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from valetkey.delivery.publisher import SOCKET_OPTIONS, Publisher
from valetkey.delivery.servers import Servers

RESULT_PREFIX = "celery-task-meta-"  # Celery's prefix of a result's key, and of its channel
UNSUBSCRIBE_BATCH = 32  # channels: to unsubscribe from many takes as long as from one

Results = list[tuple[str, bytes | str]]
"""Results as Celery stores them, each with its task id."""


class Transport:
    """The broker and the result store of one client; for one thread at a time.

    Every method raises BrokerUnreachable, within seconds, if its server does not answer.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._publisher = Publisher(servers)
        # Reopens a closed connection; does not retry a silent one, which has used enough time.
        retry_once = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        # With RESP3, redis-py writes each pushed message, grants included, to its debug log.
        self._redis = redis.Redis.from_url(
            servers.store.url, retry=retry_once, protocol=2, **SOCKET_OPTIONS
        )
        self._pubsub = self._redis.pubsub()  # type: ignore[no-untyped-call]  # redis-py's gap
        self._unused_channels: set[str] = set()

    def send(self, task_id: str, argument: dict[str, Any] | str, queue: str) -> None:
        """Subscribe to the result of a task, then put the task into a queue."""
        self._unused_channels.discard(RESULT_PREFIX + task_id)
        with self._store_errors():
            self._pubsub.subscribe(RESULT_PREFIX + task_id)
        self._publisher.send(task_id, argument, queue)

    def listen(self, seconds: float) -> Results:
        """Wait for an announced result; return it, or nothing after some seconds."""
        end = time.monotonic() + seconds
        with self._store_errors():
            while event := self._pubsub.get_message(timeout=max(end - time.monotonic(), 0)):
                if event["type"] == "message":
                    return [(event["channel"].decode().removeprefix(RESULT_PREFIX), event["data"])]
        return []

    def look_up(self, task_ids: Sequence[str]) -> Results:
        """Read the stored results of these tasks: an announcement is lost if nobody listened."""
        if not task_ids:
            return []
        with self._store_errors():
            values = self._redis.mget([RESULT_PREFIX + task_id for task_id in task_ids])
        return [(task_id, raw) for task_id, raw in zip(task_ids, values, strict=True) if raw]

    def clear(self, task_id: str) -> None:
        """Remove an unusable result, so that no lookup returns it again."""
        with self._store_errors():
            self._redis.delete(RESULT_PREFIX + task_id)

    def unsubscribe(self, task_ids: Sequence[str]) -> None:
        """Unsubscribe from the results of these tasks, once there are many."""
        self._unused_channels.update(RESULT_PREFIX + task_id for task_id in task_ids)
        if len(self._unused_channels) >= UNSUBSCRIBE_BATCH:
            channels, self._unused_channels = self._unused_channels, set()
            with self._store_errors():
                self._pubsub.unsubscribe(*channels)

    def queue_length(self, queue: str) -> int | None:
        """Return the number of messages in a queue; None if that is not known."""
        return self._publisher.queue_length(queue)

    def close(self) -> None:
        """Close all connections."""
        self._pubsub.close()
        self._redis.close()
        self._publisher.close()

    @contextmanager
    def _store_errors(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            raise self._servers.store_error(error) from None
