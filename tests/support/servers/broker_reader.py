"""A consumer on the guarded transport, which can die as a worker does."""

from collections.abc import Callable
from typing import Any

from kombu.connection import Connection
from kombu.entity import Queue
from kombu.messaging import Consumer

Handler = Callable[[Any], None]


class Reader:
    """A consumer of one queue, which keeps its messages unacknowledged."""

    def __init__(self, url: str, queue: str, handle: Handler | None = None) -> None:
        self.messages: list[Any] = []
        self._connection = Connection(
            url,
            transport="worker.broker.guarded_redis:GuardedTransport",
            transport_options={"unacked_restore_throttle": 1},
        )
        self.channel = self._connection.channel()
        on_message = handle or self.messages.append
        consumer = Consumer(self.channel, [Queue(queue)], on_message=on_message)
        consumer.qos(prefetch_count=100)
        consumer.consume()

    def read(self) -> list[Any]:
        """Return the messages that arrive until the queue is empty."""
        self.messages.clear()
        self.channel.qos.restore_visible()
        try:
            while True:
                self._connection.drain_events(timeout=0.2)
        except TimeoutError:
            return list(self.messages)

    def die(self) -> None:
        """Close the connection without returning messages, as if the process had been killed."""
        if not self._connection.connected:
            return
        with self.channel.conn_or_acquire() as client:
            for tag in self.channel.qos._delivered:
                # As if the visibility timeout were over: the next reader gets the message.
                client.zadd("unacked_index", {tag: 0})
        self.channel.qos._delivered.clear()
        self._connection.close()

    def stop(self) -> None:
        """Close the connection, which returns unacknowledged messages."""
        self._connection.close()

    def lose_connection(self) -> None:
        """Return unacknowledged messages as a Celery worker does that lost its connection."""
        try:
            raise ConnectionError  # noqa: TRY301 - stands for a read that fails
        except ConnectionError:
            self._connection.collect(socket_timeout=0.1)
