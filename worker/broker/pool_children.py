"""Kills child processes that make no progress, such as frozen ones.

Celery limits the time of a task after a child has accepted it. A frozen child accepts nothing, but
the pool still gives it messages.
"""

import mmap
import os
import signal
import time
from collections.abc import Iterable
from threading import Thread
from typing import Any

import structlog
from billiard.process import current_process
from celery.signals import worker_process_init

from worker.broker.queues import HEARTBEAT_INTERVAL

_MAX_CHILDREN = 1_024
_COUNT_INTERVAL = 1.0  # seconds
# Memory that a process shares with its children: each counts at its index in the pool.
_COUNTS = memoryview(mmap.mmap(-1, 8 * _MAX_CHILDREN)).cast("Q")

log = structlog.get_logger()


@worker_process_init.connect
def _start_counting(**_: Any) -> None:
    index = current_process().index
    Thread(target=_count, args=(index,), name="progress", daemon=True).start()


def _count(index: int) -> None:
    while True:
        _COUNTS[index] += 1
        time.sleep(_COUNT_INTERVAL)


class PoolChildren:
    """Counts the heartbeats during which each child made no progress.

    It counts no seconds, because a parent that was frozen itself would kill all its children.
    """

    def __init__(self, max_seconds: float) -> None:
        self._max_beats = max(round(max_seconds / HEARTBEAT_INTERVAL), 1)
        self._counts: dict[int, int] = {}
        self._beats: dict[int, int] = {}

    def check(self, children: Iterable[Any]) -> int:
        """Kill the children that made no progress for too long; return how many make none."""
        counts = {child.pid: _COUNTS[child.index] for child in children}
        beats = {
            pid: self._beats.get(pid, 0) + 1 if self._counts.get(pid) == count else 0
            for pid, count in counts.items()
        }
        self._counts, self._beats = counts, beats
        for pid, silent in beats.items():
            if silent >= self._max_beats:
                log.error("child_killed", child=pid, silent_seconds=silent * HEARTBEAT_INTERVAL)
                os.kill(pid, signal.SIGKILL)  # the pool starts another
        return sum(silent > 0 for silent in beats.values())
