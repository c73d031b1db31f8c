"""Kombu's Redis transport and a Celery worker that no message ends.

A frame is checked before kombu reads it. A frame that still causes an error in the worker is
dead-lettered: at once if the error shows which frame it was, otherwise after its second delivery.

Celery handles messages in its main process, outside of any task. An unexpected error there ends the
whole worker, and the broker then delivers the message to the next one.
"""

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import structlog
from celery import Celery, current_app
from celery.utils.log import get_logger
from celery.worker import state
from celery.worker.consumer import Consumer
from kombu.transport import redis, virtual
from redis.exceptions import ResponseError

from valetkey.delivery.causes import describe_cause
from valetkey.delivery.redis_clients import PrimaryConnection, PrimaryTlsConnection
from valetkey.wire.waiting import LANE_STATES, WAITING_LANES
from worker import clock
from worker.base.clock_watch import WATCH
from worker.base.progress import report_progress
from worker.broker.celery_internals import (
    OpenChannel,
    OpenWorker,
    child_processes,
    forget_tag,
    frame_of,
    keep_body,
    result_pipes,
    unacknowledged,
)
from worker.broker.dead_letters import KEY as DEAD_LETTERS
from worker.broker.dead_letters import (
    MAX_DELIVERIES,
    add_dead_letter,
    count_redelivery,
    read_redeliveries,
)
from worker.broker.message_guard import InvalidMessage, check_body, parse_unacked, read_frame
from worker.broker.pool_children import PoolChildren
from worker.broker.queues import (
    HEARTBEAT_INTERVAL,
    SHARING_LEASE,
    Heartbeat,
    own_identity,
    write_heartbeat,
)
from worker.broker.result_store import (
    count_ignored_trace,
    drop_answered_copy,
    report_discard,
    report_failure,
)
from worker.core import UPKEEP_QUEUE
from worker.features import TASKS

log = structlog.get_logger()

_PROBE_KEY = "valetkey.probe"  # does not exist
_REFUSED_PAUSE = 1.0  # seconds
_RECONNECT_PAUSES = {"interval_start": 1, "interval_step": 1, "interval_max": 2}  # seconds


REMOVE_FOREIGN_SCRIPT = """
local removed = {}
for i, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  local is_foreign = kind ~= 'none' and kind ~= ARGV[i]
  if kind == 'string' and not is_foreign then
    local left = redis.call('PTTL', key)
    is_foreign = left < 0 or left > 60000
  end
  if is_foreign then
    redis.call('DEL', key)
    removed[#removed + 1] = key
  end
end
return removed
"""
"""KEYS: keys that workers share. ARGV: their types. Returns the keys that were removed.

No worker writes a key of another type, or a lease (the only string) that does not expire.
"""

_PRIORITIES = [f"{redis.Channel.sep}{step}" for step in redis.PRIORITY_STEPS[1:]]
_QUEUES = {queue for task in TASKS.values() for queue in task.queues}
SHARED_KEYS = {
    "unacked": "hash",
    "unacked_index": "zset",
    "unacked_mutex": "string",
    SHARING_LEASE: "string",
    WAITING_LANES: "set",
    LANE_STATES: "hash",
    DEAD_LETTERS: "list",
    **{f"{queue}{step}": "list" for queue in _QUEUES for step in ("", *_PRIORITIES)},
    **{f"_kombu.binding{kind}.{queue}": "set" for queue in _QUEUES for kind in ("", "_permanent")},
}
"""The keys in the broker that workers share, and their types in Redis."""


def remove_foreign_keys(client: Any) -> None:
    """Remove the keys that no worker wrote and with which none could work."""
    arguments = *SHARED_KEYS, *SHARED_KEYS.values()
    for key in client.eval(REMOVE_FOREIGN_SCRIPT, len(SHARED_KEYS), *arguments):
        log.error("foreign_key_removed", key=key.decode())


class GuardedQoS(redis.QoS):
    """The messages that a worker has not acknowledged yet."""

    reconnected_at = float("-inf")
    """The monotonic time at which this process found its lost broker again; inf until it does."""

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note that a message was delivered.

        A broker without memory cannot note it, but the message is taken already. It is processed
        all the same, which frees memory. Its sender sends it again if its result is lost.
        """
        try:
            super().append(message, delivery_tag)
        except ResponseError as error:
            log.warning("message_not_noted", problem=type(error).__name__)
            virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message. If the broker is lost, forget it: it will be delivered again.

        kombu would keep it. A worker that has as many messages as it may take reads from the broker
        no more, and then would never notice that the connection is lost.
        """
        with self._forgetting(delivery_tag):
            super().ack(delivery_tag)

    def reject(self, delivery_tag: str, requeue: Any = False) -> None:  # noqa: FBT002 - kombu's
        """Reject a message. If the broker is lost, forget it, as in `ack`."""
        with self._forgetting(delivery_tag):
            super().reject(delivery_tag, requeue)

    @contextmanager
    def _forgetting(self, delivery_tag: str) -> Iterator[None]:
        """Forget a message if the broker is lost. kombu would log a traceback for each."""
        try:
            yield
        except self.channel.connection_errors as error:
            log.warning("message_not_acknowledged", problem=type(error).__name__)
            virtual.QoS.ack(self, delivery_tag)
            _report_outage(error)  # a frozen broker takes 5 s for each message

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:  # noqa: FBT001, FBT002 - kombu's
        """Return a message to its queue, or remove an entry that no worker wrote.

        kombu would stop at such an entry, and return no message that comes after it.
        """

        def restore(pipe: Any) -> None:
            entry = pipe.hget(self.unacked_key, tag)
            pipe.multi()
            forget_tag(self, tag, pipe)
            if entry is None:
                return
            try:
                frame, queue = parse_unacked(entry)
            except InvalidMessage as error:
                log.error("unacked_entry_removed", part=error.part)  # noqa: TRY400 - no defect
            else:
                self.channel.return_frame(frame, queue, pipe, leftmost)

        with self.channel.conn_or_acquire(client) as connected:
            try:
                connected.transaction(restore, self.unacked_key)
            except ResponseError as error:  # the next entries may still be returned
                log.warning("message_not_returned", problem=type(error).__name__)

    def can_consume(self) -> bool:
        """Return whether to ask for another message: not while this machine's clock is wrong."""
        return WATCH.is_right and bool(super().can_consume())

    def restore_unacked(self, client: Any = None) -> None:
        """Return messages to their queues when the worker ends.

        If an error ended it, the messages that no child process had accepted are dead-lettered: one
        of them may have caused it. After a lost connection, kombu calls this while it handles an
        error of its own.
        """
        error = sys.exc_info()[1]
        is_outage = _is_from(error, self.channel.connection_errors)
        if isinstance(error, Exception) and not is_outage:
            accepted = {request.message.delivery_tag for request in state.active_requests}
            for tag, message in list(unacknowledged(self).items()):
                if tag not in accepted and not message.headers.get("eta"):
                    problem = f"ended a worker: {type(error).__name__}"
                    self.channel.dead_letter(frame_of(message), problem)
        with self._counting(is_counted=not is_outage):
            super().restore_unacked(client)

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """Return messages that were taken long ago to their queues: their worker was killed.

        After an outage of the broker, workers that are alive could not acknowledge theirs. If this
        machine's clock is wrong, it says nothing of the time that has passed.
        """
        if not WATCH.is_right:
            return
        with self.channel.conn_or_acquire() as client:
            remove_foreign_keys(client)
        since = time.monotonic() - self.reconnected_at
        with self._counting(is_counted=since > 2 * self.visibility_timeout):
            super().restore_visible(*args, **options)

    @contextmanager
    def _counting(self, *, is_counted: bool) -> Iterator[None]:
        self.channel.counts_redeliveries = is_counted
        try:
            yield
        finally:
            self.channel.counts_redeliveries = True


def _is_from(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    while error is not None and not isinstance(error, kinds):
        error = error.__context__
    return error is not None


class GuardedChannel(OpenChannel):
    """A channel that delivers checked frames only."""

    QoS = GuardedQoS
    counts_redeliveries = True

    def receive(self, data: bytes, queue: str) -> None:
        """Deliver a frame, if it passes the checks."""
        try:
            frame = read_frame(data, queue, clock.now())
        except InvalidMessage as error:
            report_discard(error, queue, current_app)
            return
        if frame["headers"]["traceparent"] == "":
            frame["headers"]["traceparent"] = None  # counted once, also if it is delivered again
            count_ignored_trace(current_app)
        # Senders set this mark in copies, too.
        if frame["properties"]["delivery_info"]["redelivered"] and (
            drop_answered_copy(frame["headers"]["id"], current_app) or self._is_last_delivery(frame)
        ):
            return
        try:
            self.deliver(frame, queue)
        except self.connection_errors:
            raise
        except Exception as error:
            log.exception("message_failed", queue=queue, task=frame["headers"]["id"])
            self.dead_letter(frame, f"caused an error in a worker: {type(error).__name__}")

    def _is_last_delivery(self, frame: dict[str, Any]) -> bool:
        with self.conn_or_acquire() as client:
            is_last = read_redeliveries(client, frame) >= MAX_DELIVERIES
        if is_last:
            self.dead_letter(frame, "two worker processes ended while they had it")
        return is_last

    def dead_letter(self, frame: dict[str, Any], problem: str) -> None:
        """Move a message to the dead letters, and fail its sender's task."""
        tag, task_id = frame["properties"]["delivery_tag"], frame["headers"]["id"]
        letter = None
        try:
            with self.conn_or_acquire() as client:
                letter = add_dead_letter(client, frame, problem)
        except ResponseError as error:
            log.warning("dead_letter_lost", task=task_id, problem=type(error).__name__)
        if tag in unacknowledged(self.qos):
            self.qos.ack(tag)
        log.error("message_dead_lettered", task=task_id, dead_letter=letter, problem=problem)
        report_failure(task_id, current_app)

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        """Return the bindings of an exchange: Celery's have one, to the queue of their name.

        Those in Redis can be forged. Messages would then go into other lists, or none.
        """
        return [(exchange, "", exchange)]

    def marks_return(self, frame: dict[str, Any], pipe: Any) -> bool:
        """Count that a frame returns because its worker ended, and return whether that is so.

        An outage, or a worker that stops in order, is not the message's fault.
        """
        if state.should_stop is not None or not self.counts_redeliveries:
            return False
        # Counted here and not by the mark in the frame, which a sender can set as well.
        count_redelivery(pipe, frame)
        return True


class GuardedTransport(redis.Transport):
    """Kombu's transport of redis:// and rediss:// URLs, with the guarded channel.

    A server that refuses a command, because it became a replica or cannot write to its disk, counts
    as a lost connection. kombu would end the worker.
    """

    Channel = GuardedChannel
    connection_errors = (*redis.Transport.connection_errors, ResponseError)

    def create_channel(self, connection: Any) -> Any:
        """Return a channel, on which queues can be declared and read.

        A server that takes no writes, as a replica, is no broker: Celery then waits.
        """
        channel = super().create_channel(connection)
        try:
            with channel.conn_or_acquire() as client:
                client.delete(_PROBE_KEY)
                remove_foreign_keys(client)
        except Exception:
            channel.close()
            raise
        return channel


class GuardedSentinelChannel(GuardedChannel, redis.SentinelChannel):
    """The guarded channel, to the server that Sentinel names as the primary."""

    connection_class = PrimaryConnection
    connection_class_ssl = PrimaryTlsConnection  # type: ignore[assignment] # kombu's is another


class GuardedSentinelTransport(GuardedTransport, redis.SentinelTransport):
    """Kombu's transport of sentinel:// URLs, with the guarded channel."""

    Channel = GuardedSentinelChannel


# Celery keeps a message that it retries in memory until its eta, beyond its prefetch limit.
MAX_WAITING = 50
_STOP_POLL = 0.05  # seconds
MAX_IDLE_BEATS = 6  # in a row, after which a worker that takes no messages is stuck
_celery_log = get_logger(__name__)


def _report_outage(error: BaseException) -> None:
    report_progress(f"the broker cannot be used: {describe_cause(error)}")


NO_FEATURE = "no feature of this service has this task"


def _is_of_no_feature(message: Any) -> bool:
    """Return true for a task that a deleted feature has left in the queue of the upkeep worker.

    Producers can write to all other queues: with such tasks they would fill the dead letters.
    """
    name, queue = message.headers["task"], message.delivery_info.get("routing_key")
    return name.startswith("valetkey.") and name not in TASKS and queue == UPKEEP_QUEUE


class GuardedConsumer(Consumer):  # type: ignore[misc] # Celery's Consumer has no types
    """A consumer that discards messages that are no plain call of one of the service's tasks."""

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Note that the broker is lost. One that refused a command may do so again at once."""
        GuardedQoS.reconnected_at = float("inf")
        _report_outage(exc)
        if isinstance(exc, ResponseError):
            time.sleep(_REFUSED_PAUSE)
        super().on_connection_error_after_connected(exc)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect as Celery does, but with pauses that do not grow with the time of an outage.

        Each attempt is progress.
        """
        connect = conn.ensure_connection

        def ensure_connection(errback: Callable[..., Any], *args: Any, **options: Any) -> Any:
            def report(error: BaseException, interval: float) -> Any:
                _report_outage(error)
                return errback(error, interval)

            return connect(report, *args, **options | _RECONNECT_PAUSES)

        conn.ensure_connection = ensure_connection
        return super().ensure_connected(conn)

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], Any]:
        """Return Celery's own handler, preceded by the check."""
        if self.restart_count:
            GuardedQoS.reconnected_at = time.monotonic()
        handle: Callable[[Any], Any] = super().create_task_handler(*args, **kwargs)

        set_aside: set[str] = set()

        def check_and_handle(message: Any) -> Any:
            # One is enough to be noticed: they must not push out what can be sent again.
            if _is_of_no_feature(message) and message.headers["task"] not in set_aside:
                set_aside.add(message.headers["task"])
                return message.channel.dead_letter(frame_of(message), NO_FEATURE)
            try:
                self._check(message)
            except InvalidMessage as error:
                report_discard(error, message.delivery_info.get("routing_key"), self.app)
                return message.reject_log_error(_celery_log, self.connection_errors)
            return handle(message)

        return check_and_handle

    def _check(self, message: Any) -> None:
        """Refuse tasks that are not the service's, those of another queue, and other calls."""
        task_id, queue = message.headers["id"], message.delivery_info.get("routing_key")
        task = TASKS.get(message.headers["task"])
        if task is None or queue not in task.queues:
            raise InvalidMessage("task", task_id)
        try:
            keep_body(message, check_body(message.body))
        except InvalidMessage as error:
            raise InvalidMessage(error.part, task_id) from None
        if len(state.scheduled_requests) >= MAX_WAITING:
            message.headers["eta"] = None  # it is retried at once


class GuardedWorker(OpenWorker):
    """A worker that dead-letters messages that no child can get, and stops after its last task."""

    def wait_for_soft_shutdown(self) -> None:
        """Wait until the running tasks end, but not longer than the soft shutdown timeout.

        Celery always waits for all of it. Its loop does not run meanwhile, so the results of child
        processes are read here.
        """
        log.info("worker_stopping", worker=self.hostname, tasks=len(state.active_requests))
        end = time.monotonic() + self.app.conf.worker_soft_shutdown_timeout
        pipes = result_pipes(self.pool)
        while state.active_requests and time.monotonic() < end:
            for fd in select.select(list(pipes), [], [], _STOP_POLL)[0]:
                pipes[fd](fd)

    def on_unprocessable(self, request: Any, error: Exception) -> None:
        """Dead-letter the message of a request, or put it back if this worker stops."""
        if state.should_stop is not None:  # its children or threads have stopped already
            request.message.reject_log_error(
                _celery_log, self.consumer.connection_errors, requeue=True
            )
            return
        log.error("message_failed", task=request.id, exc_info=error)
        if self.semaphore is not None:
            self.semaphore.release()  # the place in the pool that Celery reserved for it
        problem = f"caused an error: {type(error).__name__}"
        request.message.channel.dead_letter(frame_of(request.message), problem)


class Heart:
    """Writes the heartbeats of this process, from the loop that consumes messages."""

    def __init__(self, app: Celery, supervisor: int) -> None:
        self._app = app
        self._supervisor = supervisor
        self._started_at = clock.now()
        self._timer: Any = None
        limits = app.conf.task_time_limit, app.conf.task_soft_time_limit
        self._children = PoolChildren(limits[0] - limits[1])  # the time to heed a limit

    def start(self, consumer: Any) -> None:
        """Write a heartbeat now and every few seconds. Celery calls this at each connection."""
        idle_beats = 0

        def beat() -> None:
            nonlocal idle_beats
            # Celery can lose count of its messages when a connection breaks, and then takes none,
            # although it works on none. Its loop turns all the same.
            is_idle = not (state.active_requests or state.reserved_requests)
            takes_none = WATCH.is_right and not consumer.task_consumer.channel.qos.can_consume()
            idle_beats = idle_beats + 1 if is_idle and takes_none else 0
            if idle_beats < MAX_IDLE_BEATS:
                write_heartbeat(self._app.backend.client, self._heartbeat(consumer))
            else:
                log.error("worker_stuck", worker=consumer.hostname)
                os.kill(os.getpid(), signal.SIGTERM)  # the supervisor starts it again

        if self._timer is not None:
            self._timer.cancel()
        beat()
        self._timer = consumer.timer.call_repeatedly(HEARTBEAT_INTERVAL, beat)

    def _heartbeat(self, consumer: Any) -> Heartbeat:
        children = child_processes(consumer.pool)
        silent = self._children.check(children)
        problems = dict(WATCH.problems)
        if silent:
            problems["children"] = f"{silent} of {len(children)} child processes make no progress"
        is_consuming = WATCH.is_right and (not silent or silent < len(children))
        queues = sorted(queue.name for queue in consumer.task_consumer.queues)
        return Heartbeat(
            consumer.hostname,
            queues if is_consuming else [],
            self._supervisor,
            os.getpid(),
            self._started_at,
            clock.now(),
            problems,
            *own_identity(consumer.hostname.partition("@")[0]),
        )
