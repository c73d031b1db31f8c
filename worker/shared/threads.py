"""Threads of a job: calls with a timeout, and groups of threads that work on units."""

import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, Queue, SimpleQueue
from threading import Thread
from typing import Generic, TypeVar, cast

Result = TypeVar("Result")


def call_in_background(call: Callable[[], Result]) -> Future[Result]:
    """Call a function in a thread that does not keep the process from ending."""
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future


def call_with_timeout(seconds: float, call: Callable[[], Result]) -> Result:
    """Call a function; raise TimeoutError if it takes longer than `seconds`.

    After a timeout, the call continues in a background thread until the process ends: not every
    driver has a timeout of its own.
    """
    return call_in_background(call).result(timeout=seconds)


Unit = TypeVar("Unit")


class ThreadGroup(Generic[Unit, Result]):
    """Runs a function for many units at once. Its caller bounds how many, and is one thread.

    Threads are daemons: one that hangs does not keep the process from ending.
    """

    def __init__(self, work: Callable[[Unit], Result], name: str) -> None:
        self._work = work
        self._name = name
        self._waiting: SimpleQueue[tuple[int, Unit] | None] = SimpleQueue()
        self._finished: Queue[tuple[int, Result | BaseException | None]] = Queue()
        self._running: dict[int, tuple[Unit, float]] = {}
        self._started = 0
        self._free_threads = 0
        weakref.finalize(self, self._waiting.put, None).atexit = False

    @property
    def running(self) -> int:
        """The number of units that are not finished."""
        return len(self._running)

    def start(self, unit: Unit) -> None:
        """Start a unit."""
        self._started += 1
        self._running[self._started] = unit, time.monotonic()
        self._waiting.put((self._started, unit))
        if self._free_threads:
            self._free_threads -= 1
            return
        args = self._work, self._waiting, self._finished
        Thread(target=_run_units, args=args, name=self._name, daemon=True).start()

    def wait(self, seconds: float) -> list[tuple[Unit, Result]]:
        """Wait until a unit is finished, or the seconds have passed; return the finished ones.

        Returns at once if no unit runs or after `wake`. Raises what a unit raised.
        """
        finished: list[tuple[Unit, Result]] = []
        timeout = seconds if self._running else 0.0
        while True:
            try:
                number, result = self._finished.get(timeout=timeout)
            except Empty:
                return finished
            timeout = 0.0
            self._free_threads += number != _WAKE
            unit, _ = self._running.pop(number, (None, 0.0))
            if isinstance(result, BaseException):
                raise result
            if unit is not None:  # else it was abandoned
                finished.append((unit, cast("Result", result)))

    def wake(self) -> None:
        """Let the caller's wait end. Any thread may call this."""
        self._finished.put((_WAKE, None))

    def older_than(self, seconds: float) -> list[Unit]:
        """Return the units that have run for longer than this."""
        start = time.monotonic() - seconds
        return [unit for unit, started in self._running.values() if started < start]

    def abandon(self, seconds: float) -> list[Unit]:
        """Stop waiting for the units that have run for longer than this, and return them."""
        oldest = time.monotonic() - seconds
        numbers = [number for number, (_, start) in self._running.items() if start < oldest]
        return [self._running.pop(number)[0] for number in numbers]


_WAKE = 0  # the number of no unit


def _run_units(
    work: Callable[[Unit], Result],
    waiting: "SimpleQueue[tuple[int, Unit] | None]",
    finished: "Queue[tuple[int, Result | BaseException | None]]",
) -> None:
    """Run one unit after another, until the group is deleted."""
    while (numbered := waiting.get()) is not None:
        number, unit = numbered
        try:
            result: Result | BaseException = work(unit)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            result = error
        finished.put((number, result))
    waiting.put(None)  # for the other threads
