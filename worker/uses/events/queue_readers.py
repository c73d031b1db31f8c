"""Reads all event queues that bucket profiles name, as the tenant config changes."""

import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import chain
from threading import Event, Lock, Thread
from typing import Literal, NamedTuple

import structlog

from worker.base.clock_watch import WATCH
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.rules.tenant_config import Bucket, TenantConfig
from worker.shared.pages import in_parts
from worker.uses.events.event_messages import MessageGroup, QueueTargets, queue_targets
from worker.uses.events.event_queues import (
    MAX_MESSAGES,
    VISIBILITY_SECONDS,
    EventQueue,
    QueueMessage,
    QueueUnusable,
    event_queues,
    queue_id,
)

WAIT_SECONDS = 10
"""The time in seconds that a poll waits for messages: 260,000 polls of an idle queue a month."""

GROUP_SIZE = 250
"""The messages that are handled together, at most. A commit costs more than most of them do."""

DELAYS = (1, 2, 4, 8, 16, 30, 60)
"""The seconds before the next poll after 1, 2, … failures in a row; the last one repeats."""

MAX_FAULTS = 5
"""The receipts of a message that raises an unexpected error, before it is deleted.

It is deleted only if other messages raise none: otherwise the error is that of the service.
"""

_PARALLEL_POLLS = 8
_FILL_SECONDS = 1.0  # in which a group has to be complete
_SHORTEST_POLL = 1.0  # seconds; an empty poll that ends earlier did not wait as requested

_Part = Literal["queue", "events"]
"""The part that has a problem: the calls of SQS, or what they brought."""

log = structlog.get_logger()


class QueueReader:
    """Reads one queue in one thread. Several may read the same queue.

    threads makes several calls at once. A message is deleted after the uses that it
    reports are committed. If anything fails before that, it comes again.

    progress_at is the time of the monotonic clock at which it last began to wait for messages, or
    to handle some.
    """

    def __init__(self, url: str, queue: EventQueue, context: Context, threads: Executor) -> None:
        self._url = url
        self._queue = queue
        self._context = context
        self._known: tuple[TenantConfig, QueueTargets] | None = None
        self._threads = threads
        self._failures = 0
        self._succeeded_at = -math.inf  # of the monotonic clock
        self._is_troubled = False
        self._reachable_since = context.now()
        self._problems: dict[_Part, str] = {}
        self._busy = Lock()
        self.progress_at = time.monotonic()

    def run(self, stop: Event) -> None:
        """Read the queue until stop is set. Never raises."""
        while not stop.is_set():
            self.progress_at = time.monotonic()
            try:
                has_progress = self._read_messages(stop)
            except Exception:
                if stop.is_set():
                    return  # its threads have ended
                log.exception("events_failed", queue=self._queue.name)
                has_progress = False
            self._failures = 0 if has_progress else self._failures + 1
            if self._failures:
                stop.wait(DELAYS[min(self._failures, len(DELAYS)) - 1])

    def wait_until_idle(self, seconds: float) -> None:
        """Wait until no messages are being handled. Once stop is set, a reader begins no others.

        A poll may still wait for messages. Those that it receives come again.
        """
        if self._busy.acquire(timeout=seconds):
            self._busy.release()

    def _read_messages(self, stop: Event) -> bool:
        """Handle what the queue has; return false if the next poll should wait."""
        begin = time.monotonic()
        try:
            messages = self._receive()
        except Transient as error:
            self._note("queue", error)
            return False
        self._note("queue", None)
        if not messages and time.monotonic() - begin < _SHORTEST_POLL:
            stop.wait(_SHORTEST_POLL)
        with self._busy:
            if not messages or stop.is_set():
                return True
            try:
                return self._handle(messages)
            except Transient as error:
                self._note("events", error)
                return False

    def _receive(self) -> list[QueueMessage]:
        """Wait for messages; if there are many, receive more of them, in parallel."""
        messages = self._queue.receive(WAIT_SECONDS)
        if self._failures or len(messages) < MAX_MESSAGES:
            return messages  # while something fails, few messages are received in vain
        end = time.monotonic() + _FILL_SECONDS
        while len(messages) < GROUP_SIZE and time.monotonic() < end:
            parts = self._threads.map(self._poll, range(_PARALLEL_POLLS))
            more = list(chain.from_iterable(parts))
            messages += more
            if len(more) < MAX_MESSAGES:
                break
        return messages

    def _poll(self, _number: int) -> list[QueueMessage]:
        try:
            return self._queue.receive(0)
        except QueueUnusable:
            return []  # what was received is handled first; the next poll reports the problem

    def _handle(self, messages: Sequence[QueueMessage]) -> bool:
        """Handle messages; return false if the next poll should wait."""
        try:
            group = self._record(messages)
        except Transient:
            raise
        except Exception:
            log.exception("events_failed", queue=self._queue.name, messages=len(messages))
            return self._handle_each(messages)
        self._note("events", group.problem)
        self._delete(group.handled)
        log.info(
            "events_handled",
            queue=self._queue.name,
            messages=len(messages),
            recorded=group.recorded,
            ignored=dict(group.ignored),
            waiting=dict(group.waiting),
        )
        # What waits for one storage holds up no events of others.
        return group.problem is None or bool(group.handled)

    def _record(self, messages: Sequence[QueueMessage]) -> MessageGroup:
        self.progress_at = time.monotonic()
        if self._is_troubled:
            self._reachable_since = self._context.now()
        self._is_troubled = True  # unless nothing fails
        group = MessageGroup(
            messages, self._targets(), self._context, self._threads, self._reachable_since
        )
        group.handle()
        self._is_troubled = group.problem is not None
        if group.handled:
            self._succeeded_at = time.monotonic()
        return group

    def _targets(self) -> QueueTargets:
        """Return the objects that the queue may report by the current config. Raises Transient."""
        config = self._context.config.current()
        if self._known is None or self._known[0] is not config:
            self._known = config, queue_targets(self._url, config, self._context)
        return self._known[1]

    def _handle_each(self, messages: Sequence[QueueMessage]) -> bool:
        """Handle messages one by one: one of them must not keep the others from being handled."""
        failed: list[QueueMessage] = []
        for message in messages:
            try:
                self._delete(self._record([message]).handled)
            except Transient:
                raise
            except Exception:
                log.exception("event_failed", queue=self._queue.name, message=message.message_id)
                failed.append(message)
        succeeded_recently = time.monotonic() - self._succeeded_at < 2 * VISIBILITY_SECONDS
        for message in failed:
            if succeeded_recently and message.receive_count >= MAX_FAULTS:
                self._delete([message])
                log.error("event_discarded", queue=self._queue.name, message=message.message_id)
        return len(failed) < len(messages)

    def _delete(self, messages: Sequence[QueueMessage]) -> None:
        failed = sum(self._threads.map(self._queue.delete, in_parts(messages, MAX_MESSAGES)))
        if failed:
            log.warning("events_not_deleted", queue=self._queue.name, messages=failed)

    def _note(self, part: _Part, problem: Transient | None) -> None:
        """Log each problem once, until it changes or ends."""
        before, text = self._problems.get(part, ""), "" if problem is None else str(problem)
        self._problems[part] = text
        if text and text != before:
            log.warning("events_wait", queue=self._queue.name, problem=text)
        elif before and not text:
            log.info("events_resumed", queue=self._queue.name)


CONFIG_INTERVAL = 5.0
"""The time in seconds after which a changed tenant config is noticed."""

STOP_SECONDS = 10.0
"""The time in seconds in which messages that are being handled may be finished."""

READERS = 2
"""The threads that read one queue: while one commits, the other receives."""

_NO_QUEUE = "no bucket profile names a queue: set events_queue in tenants.toml, and apply the file"
_PARALLEL_CALLS = 16  # to storage and SQS, of one queue


class _RunningQueue(NamedTuple):
    """A queue that is being read, and what stops it."""

    queue: EventQueue
    readers: list[QueueReader]
    threads: ThreadPoolExecutor
    stop: Event


class QueueReaders:
    """Reads the queue of each bucket profile that names one, in threads of this process."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._running: dict[tuple[str, Bucket], _RunningQueue] = {}
        self._progress_at = time.monotonic()

    def run(self, stop: Event, beat: Callable[[Sequence[str]], None]) -> None:
        """Read the queues until stop is set; messages that are being handled are finished.

        beat is called every few seconds with the ids of the queues (`queue_id`).
        """
        while not stop.is_set():
            self._progress_at = time.monotonic()
            self._update()
            beat(sorted(queue_id(url) for url, _ in self._running))
            stop.wait(CONFIG_INTERVAL)
        self._stop(list(self._running))

    def idle_seconds(self) -> float:
        """Return the time since the last progress of the part that waits longest.

        Any thread may call it. Parts are the loop of `run`, and each reader.
        """
        readers = [r for running in tuple(self._running.values()) for r in running.readers]
        return time.monotonic() - min([self._progress_at, *(r.progress_at for r in readers)])

    def _update(self) -> None:
        """Start and stop readers as the config has it now; keep them if it cannot be read."""
        if not WATCH.is_right:
            self._stop(list(self._running))
            return
        try:
            config = self._context.config.current()
        except Transient as error:
            self._note("the tenant config", str(error))
            return
        wanted = dict(event_queues(list(config.buckets.values()))).items()
        self._note("the tenant config", None if wanted else _NO_QUEUE)
        self._stop([key for key in self._running if key not in wanted])
        for url, bucket in wanted:
            if (url, bucket) not in self._running:
                try:
                    self._start(url, bucket)
                except (Malformed, Transient) as error:  # as a profile without credentials
                    self._note(bucket.name, str(error))
                else:
                    self._note(bucket.name, None)

    def _note(self, part: str, problem: str | None) -> None:
        self._context.problems.note("queues_wait", part, problem, part=part)

    def _start(self, url: str, bucket: Bucket) -> None:
        queue = EventQueue(url, bucket)
        threads = ThreadPoolExecutor(_PARALLEL_CALLS, thread_name_prefix=queue.name)
        readers = [QueueReader(url, queue, self._context, threads) for _ in range(READERS)]
        running = _RunningQueue(queue, readers, threads, Event())
        for reader in readers:
            # Daemons: a poll that waits for messages does not keep the process from ending.
            Thread(target=reader.run, args=(running.stop,), name=queue.name, daemon=True).start()
        self._running[url, bucket] = running
        log.info("queue_read", queue=queue.name, bucket=bucket.name)

    def _stop(self, keys: list[tuple[str, Bucket]]) -> None:
        stopped = [self._running.pop(key) for key in keys]
        for running in stopped:
            running.stop.set()
        for running in stopped:
            for reader in running.readers:
                reader.wait_until_idle(STOP_SECONDS)
            running.threads.shutdown(wait=False, cancel_futures=True)
            running.queue.close()


def has_queues(config: TenantConfig) -> bool:
    """Return true if a bucket profile names a queue."""
    return any(bucket.events_queue for bucket in config.buckets.values())
