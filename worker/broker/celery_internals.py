"""Uses what Celery, kombu and billiard have, but do not offer in their public API.

Look here when you upgrade one of them. tests/unit/broker/test_celery_internals.py has each name.
No other module uses one, except ResultStore: it overrides `_params_from_url`, `_create_client`,
`_store_result` and `_set` of Celery's RedisBackend, because no option replaces its client, and no
public method gets a result together with its request.
"""

from collections.abc import Mapping
from queue import Empty
from typing import Any

from celery.apps.worker import Worker
from kombu.transport import redis
from kombu.utils.json import dumps


def unacknowledged(qos: Any) -> Mapping[str, Any]:
    """Return the messages that are not acknowledged, by tag: kombu offers only their number."""
    delivered: Mapping[str, Any] = qos._delivered
    return delivered


def forget_tag(qos: Any, tag: Any, pipe: Any) -> None:
    """Remove what Redis has of a tag, in a transaction: kombu's `ack` uses one of its own."""
    qos._remove_from_indices(tag, pipe)


def frame_of(message: Any) -> dict[str, Any]:
    """Return the frame of a message: kombu offers only its parts."""
    frame: dict[str, Any] = message._raw
    return frame


def keep_body(message: Any, call: Any) -> None:
    """Let `message.payload`, which Celery reads, return a parsed body: kombu would parse it again.

    kombu has no setter for it.
    """
    message._decoded_cache = call


def child_processes(pool: Any) -> list[Any]:
    """Return the child processes of a pool, none if it has threads: Celery offers only their ids.

    Their indexes are needed, too.
    """
    return list(getattr(pool._pool, "_pool", ()))


def result_pipes(pool: Any) -> dict[int, Any]:
    """Return the function that reads a result, by the descriptor from which child processes send.

    Empty if the pool has threads. Only Celery's loop has them, which does not run at a shutdown.
    """
    processes = getattr(pool, "_pool", None)
    read = getattr(processes, "handle_result_event", None)
    return dict.fromkeys(getattr(processes, "_fileno_to_outq", ()), read)


def result_meta(backend: Any, result: Any, state: str, traceback: Any, request: Any) -> Any:
    """Return what Celery stores of a result: its public `store_result` stores it as well."""
    return backend._get_result_meta(result, state, traceback, request)


class OpenChannel(redis.Channel):
    """A channel whose subclass reads frames and marks those that return to their queue.

    kombu has no hook before it parses a frame, and none before it returns one.
    """

    def receive(self, data: bytes, queue: str) -> None:
        """Handle the bytes of a frame."""
        raise NotImplementedError

    def marks_return(self, frame: dict[str, Any], pipe: Any) -> bool:
        """Return whether to mark a frame as delivered again, before it returns to its queue."""
        raise NotImplementedError

    def deliver(self, frame: dict[str, Any], queue: str) -> None:
        """Call the consumer of a queue: kombu does this only with what it parsed itself."""
        self.connection._deliver(frame, queue)

    def return_frame(self, frame: dict[str, Any], queue: str, pipe: Any, *leftmost: bool) -> None:
        """Return a frame to its queue, in a transaction: kombu uses one of its own."""
        self._do_restore_message(frame, "", queue, pipe, *leftmost)

    def _brpop_read(self, **options: Any) -> bool:
        try:
            reply = self._parse_brpop(**options)
            if not reply:
                raise Empty
            queue = reply[0].decode().rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            self.receive(reply[1], queue)
        finally:
            self._in_poll = False
            self._flush_brpop_reauth()
        return True

    def _parse_brpop(self, **options: Any) -> Any:
        connection = self.client.connection
        try:
            return self.client.parse_response(connection, "BRPOP", **options)
        except self.connection_errors:
            connection.disconnect()  # the next poll connects again
            raise

    def _do_restore_message(
        self, payload: Any, exchange: str, routing_key: str, pipe: Any, *leftmost: bool
    ) -> None:
        if self.marks_return(payload, pipe):
            super()._do_restore_message(payload, exchange, routing_key, pipe, *leftmost)
            return
        priority = self._get_message_priority(payload, reverse=False)
        pipe.rpush(self._q_for_pri(routing_key, priority), dumps(payload))


class OpenWorker(Worker):  # type: ignore[misc] # Celery's Worker has no types
    """A worker whose subclass handles requests that it cannot give to its pool.

    Celery has no hook for that.
    """

    def on_unprocessable(self, request: Any, error: Exception) -> None:
        """Handle a request that no child can get."""
        raise NotImplementedError

    def _process_task(self, request: Any) -> None:
        try:
            super()._process_task(request)
        except Exception as error:  # noqa: BLE001 - pools raise what they like
            self.on_unprocessable(request, error)
