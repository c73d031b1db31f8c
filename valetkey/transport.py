"""Celery and Redis, and nothing else here touches them: messages out, results back."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from celery import Celery
from kombu.exceptions import KombuError
from kombu.exceptions import OperationalError as BrokerError
from redis.backoff import NoBackoff
from redis.retry import Retry

from valetkey.config import without_secrets
from valetkey.errors import BrokerUnreachable
from valetkey.messages import TASK

_PATIENCE = 5  # seconds, for a socket to open or answer
_RESULT = "celery-task-meta-"  # Celery's prefix of a result's key, and of its channel
_ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}
_SOCKETS = {"socket_timeout": _PATIENCE, "socket_connect_timeout": _PATIENCE}

Results = list[tuple[str, bytes | str]]


class Transport:
    """The broker and the result store of one client; not for several threads at once.

    Every method raises BrokerUnreachable, within seconds, where its server does not answer.
    """

    def __init__(self, broker_url: str, result_url: str) -> None:
        self._broker = without_secrets(broker_url)
        self._store = without_secrets(result_url)
        self._app = _app()
        # A connection of our own: Celery prefers CELERY_BROKER_URL to what it is told.
        self._connection = self._app.connection_for_write(
            broker_url, connect_timeout=_PATIENCE, transport_options=_SOCKETS | _ONCE_MORE
        )
        self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)
        # A connection that was closed is opened again; one that is silent has taken long enough.
        once_more = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        # Under RESP3 the library writes each pushed answer, grants and all, out for a debug log.
        self._redis = redis.Redis.from_url(result_url, retry=once_more, protocol=2, **_SOCKETS)
        self._heard = self._redis.pubsub()  # type: ignore[no-untyped-call]  # redis-py's gap

    def send(self, task_id: str, argument: dict[str, Any] | str, queue: str) -> None:
        """Put a task with this argument into a queue, listening for its result first."""
        with self._speaking():
            self._heard.subscribe(_RESULT + task_id)
        try:
            self._app.send_task(
                TASK,
                args=[argument],
                task_id=task_id,
                queue=queue,
                serializer="json",
                producer=self._producer,
                retry=True,
                retry_policy=_ONCE_MORE,
                argsrepr="(message)",  # headers are logged by workers: no keys in them
                kwargsrepr="{}",
                add_to_parent=False,  # in another application's task, that would keep them all
            )
        except (BrokerError, KombuError, OSError) as error:
            name = type(error.__cause__ or error).__name__
            raise BrokerUnreachable(f"no broker answers at {self._broker} ({name})") from None

    def listen(self, seconds: float) -> Results:
        """Wait for a result to be announced, and return it with its task id."""
        end = time.monotonic() + seconds
        with self._speaking():
            while event := self._heard.get_message(timeout=max(end - time.monotonic(), 0)):
                if event["type"] == "message":
                    return [(event["channel"].decode().removeprefix(_RESULT), event["data"])]
        return []

    def look(self, task_ids: Sequence[str]) -> Results:
        """Look for results in the store: an announcement is lost where nobody listened."""
        if not task_ids:
            return []
        with self._speaking():
            found = self._redis.mget([_RESULT + task_id for task_id in task_ids])
        return [(name, raw) for name, raw in zip(task_ids, found, strict=True) if raw]

    def clear(self, task_id: str) -> None:
        """Remove a result that is of no use, before it is found again."""
        with self._speaking():
            self._redis.delete(_RESULT + task_id)

    def forget(self, task_ids: Sequence[str]) -> None:
        """Stop listening for these answers."""
        if task_ids:
            with self._speaking():
                self._heard.unsubscribe(*(_RESULT + task_id for task_id in task_ids))

    def close(self) -> None:
        """Close all connections."""
        self._heard.close()
        self._redis.close()
        self._connection.release()

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            text = f"no result store answers at {self._store} ({type(error).__name__})"
            raise BrokerUnreachable(text) from None


def _app() -> Celery:
    app = Celery("valetkey-producer", set_as_current=False)
    # Celery's own backend would subscribe to every result and read none of them.
    app.backend_cls = "disabled"
    app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
    return app
