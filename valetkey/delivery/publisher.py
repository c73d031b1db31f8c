"""Publishes messages through Celery. No other module of the client uses Celery."""

import json
import uuid
from base64 import b64encode
from typing import Any

import redis
from celery import Celery
from celery.signals import after_task_publish, before_task_publish
from kombu.exceptions import KombuError
from kombu.exceptions import OperationalError as BrokerError

from valetkey.delivery.servers import Servers
from valetkey.wire.messages import ISSUE_TASK

SOCKET_TIMEOUT = 5  # seconds to connect a socket, and to read from it
SOCKET_OPTIONS = {"socket_timeout": SOCKET_TIMEOUT, "socket_connect_timeout": SOCKET_TIMEOUT}
_RETRY_ONCE = {"max_retries": 1, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.2}

# Workers log headers, which must not contain object keys.
_REPRS = {"argsrepr": "(message)", "kwargsrepr": "{}"}


class Publisher:
    """The broker connection of one client; for one thread at a time."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        url = servers.broker.url
        is_redis = url.startswith("redis")
        # redis-py reopens a closed connection itself, and a silent one has used enough time.
        self._retries = not is_redis
        self._is_redis = self._may_ask_length = is_redis
        # In Redis a queue needs no declaration. Without one, a producer needs no access to its
        # bindings and its length.
        self._declarations: list[Any] | None = [] if is_redis else None
        self._app = _create_app()
        # An explicit connection: Celery prefers CELERY_BROKER_URL to the URL in its arguments.
        self._connection = self._app.connection_for_write(
            url, connect_timeout=SOCKET_TIMEOUT, transport_options=SOCKET_OPTIONS | _RETRY_ONCE
        )
        self._producer = self._app.amqp.Producer(self._connection, auto_declare=False)

    def send(self, task_id: str, argument: dict[str, Any] | str, queue: str) -> None:
        """Put a task with this argument into a queue.

        Raises BrokerUnreachable, within seconds, if the broker does not take it.
        """
        # A tracing library that listens to Celery adds headers. Otherwise Celery's and kombu's work
        # takes four times as long as writing the message.
        is_traced = before_task_publish.receivers or after_task_publish.receivers
        try:
            if self._is_redis and not is_traced:
                self._push(task_id, argument, queue)
            else:
                self._send_task(task_id, argument, queue)
        except (redis.RedisError, BrokerError, KombuError, OSError) as error:
            raise self._servers.broker_error(error) from None

    def _push(self, task_id: str, argument: dict[str, Any] | str, queue: str) -> None:
        """Write the frame that kombu would write: see docs/contract/envelope.schema.json."""
        message = self._app.amqp.as_task_v2(task_id, ISSUE_TASK, args=[argument], **_REPRS)
        properties = message.properties | {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
        }
        frame = {
            "body": b64encode(json.dumps(message.body).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": message.headers,
            "properties": properties,
        }
        self._producer.channel.client.lpush(queue, json.dumps(frame))

    def _send_task(self, task_id: str, argument: dict[str, Any] | str, queue: str) -> None:
        self._app.send_task(
            ISSUE_TASK,
            args=[argument],
            task_id=task_id,
            queue=queue,
            declare=self._declarations,
            serializer="json",
            producer=self._producer,
            retry=self._retries,
            retry_policy=_RETRY_ONCE,
            add_to_parent=False,  # a parent task of another application would keep every result
            **_REPRS,
        )

    def queue_length(self, queue: str) -> int | None:
        """Return the number of messages in a queue; None if that is not known.

        The broker may be no Redis, or its user may not be allowed to ask.
        """
        if not self._may_ask_length:
            return None
        try:
            length: int = self._producer.channel.client.llen(queue)
        except (redis.RedisError, BrokerError, KombuError, OSError) as error:
            # Each refusal adds an entry to the server's ACL LOG, so do not ask again.
            self._may_ask_length = not isinstance(error, redis.exceptions.NoPermissionError)
            return None
        return length

    def close(self) -> None:
        """Close the connection."""
        self._connection.release()


def _create_app() -> Celery:
    app = Celery("valetkey-producer", set_as_current=False)
    # Celery's own backend would subscribe to every result and read none of them.
    app.backend_cls = "disabled"
    app.conf.update(task_serializer="json", result_serializer="json", accept_content=["json"])
    return app
