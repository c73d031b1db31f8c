"""Reads all queues that bucket profiles name, as the tenant config changes."""

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread
from typing import NamedTuple

import structlog

from worker.aws.event_queues import EventQueue, event_queues, queue_id
from worker.context import Context
from worker.core.tenants.config import Bucket, TenantConfig
from worker.errors import Malformed, Transient
from worker.usecases.uses.intake.queue_reader import QueueReader
from worker.usecases.uses.intake.targets import QueueTargets, queue_targets

CONFIG_INTERVAL = 5.0
"""The time in seconds after which a changed tenant config is noticed."""

STOP_SECONDS = 10.0
"""The time in seconds in which messages that are being handled may be finished."""

READERS = 2
"""The threads that read one queue: while one commits, the other receives."""

_NO_QUEUE = "no bucket profile names a queue: set events_queue in tenants.toml, and apply the file"
_PARALLEL_CALLS = 16  # to storage and SQS, of one queue

log = structlog.get_logger()


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
        """Read the queues until told to stop; messages that are being handled are finished.

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
        targets = _CachedTargets(url, self._context)
        readers = [QueueReader(queue, targets, self._context, threads) for _ in range(READERS)]
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


class _CachedTargets:
    """The targets of a queue, read again when the tenant config has changed."""

    def __init__(self, url: str, context: Context) -> None:
        self._url = url
        self._context = context
        self._cached: tuple[TenantConfig, QueueTargets] | None = None

    def __call__(self) -> QueueTargets:
        """Return what the queue may tell of now. Raises Transient."""
        config, cached = self._context.config.current(), self._cached
        if cached is None or cached[0] is not config:
            cached = config, queue_targets(self._url, config, self._context)
            self._cached = cached
        return cached[1]
