"""Producers that request grants in threads until they are told to stop."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from tests.support.faults.record import Record
from tests.support.servers.waiting import wait_until

RECOVERY_SECONDS = 90.0  # within which every call returns after a fault
ANSWER_SECONDS = 120.0  # for which a producer waits for one result before it gives up
_FIRST_ANSWER_SECONDS = 60.0
# Between two calls of a producer. Without it, small requests would keep their queue filled, and
# large batches wait behind it: one worker reads its queues in order of priority.
_PAUSE_SECONDS = 0.05


class Producer(Protocol):
    """A producer: run() makes calls, and notes each in the record, until is_stopping()."""

    name: str

    def run(self, record: Record, is_stopping: Callable[[], bool]) -> None:
        """Make calls until is_stopping() returns true."""


class Load:
    """The running producers, and what they were told."""

    def __init__(self, producers: Sequence[Producer]) -> None:
        self.record = Record()
        self._stop = threading.Event()
        self._threads = {
            each.name: threading.Thread(target=self._run, args=(each,), name=each.name, daemon=True)
            for each in producers
        }

    def _run(self, producer: Producer) -> None:
        try:
            producer.run(self.record, lambda: self._stop.wait(_PAUSE_SECONDS))
        except Exception as error:  # noqa: BLE001 - whatever it is, the test reports it
            self.record.fail(producer.name, error)

    def start(self) -> None:
        """Start all producers, and wait until each one has been answered."""
        for thread in self._threads.values():
            thread.start()
        self.wait_for_calls(1, _FIRST_ANSWER_SECONDS)

    def wait_for_calls(self, count: int, seconds: float = RECOVERY_SECONDS) -> None:
        """Wait until each producer has completed this many more calls than before."""
        before = dict(self.record.calls)

        def are_complete() -> bool:
            calls = self.record.calls
            return bool(self.record.errors) or all(
                calls.get(name, 0) >= before.get(name, 0) + count for name in self._threads
            )

        wait_until(are_complete, seconds, "every producer's call returns")

    def wait_for_answers(self, count: int) -> None:
        """Wait until this many more items are answered."""
        end = self.record.answered + count
        wait_until(lambda: self.record.errors or self.record.answered >= end, what="answers")

    def stop(self, seconds: float) -> list[str]:
        """Let each producer complete its call; return the names of those that did not."""
        self._stop.set()
        end = time.monotonic() + seconds
        for thread in self._threads.values():
            thread.join(max(end - time.monotonic(), 0))
        return [name for name, thread in self._threads.items() if thread.is_alive()]


@contextmanager
def running_load(producers: Sequence[Producer]) -> Iterator[Load]:
    """Run producers; at the end of the block they stop as soon as their calls return."""
    load = Load(producers)
    try:
        load.start()
        yield load
    finally:
        load.stop(0)
