"""The broker and Redis, as a client that waits in its own thread uses them."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from valetkey.config import without_secrets
from valetkey.delivery.publisher import SOCKET_OPTIONS, Publisher
from valetkey.errors import BrokerUnreachable

RESULT_PREFIX = "celery-task-meta-"  # Celery's prefix of a result's key, and of its channel
UNSUBSCRIBE_BATCH = (
    32  # channels to leave in one call, which takes as long for one: nothing more comes on them
)

Results = list[tuple[str, bytes | str]]


class Transport:
    """The broker and the result store of one client; not for several threads at once.

    Every method raises BrokerUnreachable, within seconds, where its server does not answer.
    """

    def __init__(self, broker_url: str, result_url: str) -> None:
        self._store = without_secrets(result_url)
        self._publisher = Publisher(broker_url)
        # A connection that was closed is opened again; one that is silent has taken long enough.
        once_more = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        # Under RESP3 the library writes each pushed answer, grants and all, out for a debug log.
        self._redis = redis.Redis.from_url(
            result_url, retry=once_more, protocol=2, **SOCKET_OPTIONS
        )
        self._heard = self._redis.pubsub()  # type: ignore[no-untyped-call]  # redis-py's gap
        self._done: set[str] = set()

    def send(self, task_id: str, argument: dict[str, Any] | str, queue: str) -> None:
        """Put a task with this argument into a queue, listening for its result first."""
        self._done.discard(RESULT_PREFIX + task_id)
        with self._speaking():
            self._heard.subscribe(RESULT_PREFIX + task_id)
        self._publisher.send(task_id, argument, queue)

    def listen(self, seconds: float) -> Results:
        """Wait for a result to be announced, and return it with its task id."""
        end = time.monotonic() + seconds
        with self._speaking():
            while event := self._heard.get_message(timeout=max(end - time.monotonic(), 0)):
                if event["type"] == "message":
                    return [(event["channel"].decode().removeprefix(RESULT_PREFIX), event["data"])]
        return []

    def look(self, task_ids: Sequence[str]) -> Results:
        """Look for results in the store: an announcement is lost where nobody listened."""
        if not task_ids:
            return []
        with self._speaking():
            found = self._redis.mget([RESULT_PREFIX + task_id for task_id in task_ids])
        return [(name, raw) for name, raw in zip(task_ids, found, strict=True) if raw]

    def clear(self, task_id: str) -> None:
        """Remove a result that is of no use, before it is found again."""
        with self._speaking():
            self._redis.delete(RESULT_PREFIX + task_id)

    def forget(self, task_ids: Sequence[str]) -> None:
        """Stop listening for these answers, once there are many."""
        self._done.update(RESULT_PREFIX + task_id for task_id in task_ids)
        if len(self._done) >= UNSUBSCRIBE_BATCH:
            done, self._done = self._done, set()
            with self._speaking():
                self._heard.unsubscribe(*done)

    def close(self) -> None:
        """Close all connections."""
        self._heard.close()
        self._redis.close()
        self._publisher.close()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            text = f"no result store answers at {self._store} ({type(error).__name__})"
            raise BrokerUnreachable(text) from None
