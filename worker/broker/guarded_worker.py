"""A Celery worker that no message ends, and its heart.

Celery handles messages in its main process, outside of any task. An unexpected error there ends
the whole worker, and the broker then delivers the message to the next one.
"""

import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import structlog
from celery import Celery
from celery.apps.worker import Worker
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.exceptions import KombuError

from worker.broker.bodies import check_call, check_size
from worker.broker.discards import report_discard
from worker.broker.headers import InvalidMessage
from worker.broker.heartbeats import INTERVAL, Heartbeat, write_heartbeat
from worker.broker.queues import QUEUES_BY_TASK

# Celery keeps a message that it retries in memory until its eta, beyond its prefetch limit.
MAX_WAITING = 50
MAX_IDLE_BEATS = 6  # in a row, after which a worker that takes no messages is stuck
log = structlog.get_logger()
_celery_log = get_logger(__name__)


class GuardedConsumer(Consumer):  # type: ignore[misc] # Celery's Consumer has no types
    """A consumer that discards messages that are no plain call of one of the service's tasks."""

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Return Celery's own handler, preceded by the check."""
        handle: Callable[[Any], Any] = super().create_task_handler(*args, **kwargs)

        def check_and_handle(message: Any) -> Any:
            try:
                self._check(message)
            except InvalidMessage as error:
                report_discard(error, message.delivery_info.get("routing_key"), self.app)
                return message.reject_log_error(_celery_log, self.connection_errors)
            return handle(message)

        return check_and_handle

    def _check(self, message: Any) -> None:
        try:
            self._check_task(message)
            check_size(message.body)
            check_call(_decode(message))
        except InvalidMessage as error:
            raise InvalidMessage(error.part, message.headers["id"]) from None
        if len(state.scheduled_requests) >= MAX_WAITING:
            message.headers["eta"] = None  # it is retried at once

    def _check_task(self, message: Any) -> None:
        """Refuse tasks that are not the service's, and those that belong into another queue."""
        name, queue = message.headers["task"], message.delivery_info.get("routing_key")
        if queue not in QUEUES_BY_TASK.get(name, ()):
            raise InvalidMessage("task")


def _decode(message: Any) -> Any:
    try:
        return message.payload
    except (KombuError, ValueError, RecursionError):
        raise InvalidMessage("body") from None


class GuardedWorker(Worker):  # type: ignore[misc] # Celery's Worker has no types
    """A worker that sets aside a message which cannot be passed to a child process."""

    def _process_task(self, request: Any) -> None:
        try:
            super()._process_task(request)
        except Exception as error:
            if state.should_stop is not None:  # its children or threads have stopped already
                request.message.reject_log_error(
                    _celery_log, self.consumer.connection_errors, requeue=True
                )
                return
            log.exception("message_failed", task=request.id)
            if self.semaphore is not None:
                self.semaphore.release()  # the place in the pool that Celery reserved for it
            problem = f"caused an error: {type(error).__name__}"
            request.message.channel.set_aside_message(request.message, problem)


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
