"""Celery, and nothing else here touches it: messages out."""

from typing import Any

from celery import Celery
from kombu.exceptions import KombuError
from kombu.exceptions import OperationalError as BrokerError

from valetkey.config import without_secrets
from valetkey.errors import BrokerUnreachable
from valetkey.wire.messages import ISSUE_TASK

SOCKET_TIMEOUT = 5  # seconds, for a socket to open or answer
SOCKET_OPTIONS = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": SOCKET_TIMEOUT}
_ONCE_MORE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}


class Publisher:
    """The broker of one client; for one thread at a time."""

    def __init__(self, url: str) -> None:
        self._broker = without_secrets(url)
        # redis-py opens a closed connection again by itself, and a silent one takes long enough.
        self._tries_again = not self._broker.startswith("redis")
        self._app = _app()
        # A connection of our own: Celery prefers CELERY_BROKER_URL to what it is told.
        self._connection = self._app.connection_for_write(
            url, connect_timeout=SOCKET_TIMEOUT, transport_options=SOCKET_OPTIONS | _ONCE_MORE
        )
        self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)

    def send(self, task_id: str, argument: dict[str, Any] | str, queue: str) -> None:
        """Put a task with this argument into a queue; raises BrokerUnreachable, within seconds."""
        try:
            self._app.send_task(
                ISSUE_TASK,
                args=[argument],
                task_id=task_id,
                queue=queue,
                serializer="json",
                producer=self._producer,
                retry=self._tries_again,
                retry_policy=_ONCE_MORE,
                argsrepr="(message)",  # headers are logged by workers: no keys in them
                kwargsrepr="{}",
                add_to_parent=False,  # in another application's task, that would keep them all
            )
        except (BrokerError, KombuError, OSError) as error:
            name = type(error.__cause__ or error).__name__
            raise BrokerUnreachable(f"no broker answers at {self._broker} ({name})") from None

    def close(self) -> None:
        """Close the connection."""
        self._connection.release()


def _app() -> Celery:
    app = Celery("valetkey-producer", set_as_current=False)
    # Celery's own backend would subscribe to every result and read none of them.
    app.backend_cls = "disabled"
    app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
    return app
