"""Units of work that run at once, each in a thread of its own."""

import time
from collections.abc import Callable
from queue import Empty, Queue
from threading import Thread
from typing import Generic, TypeVar

Unit = TypeVar("Unit")
Result = TypeVar("Result")


class ThreadGroup(Generic[Unit, Result]):
    """Runs a function for many units at once. Its caller bounds how many, and is one thread.

    Threads are daemons: one that hangs does not keep the process from ending.
    """

    def __init__(self, work: Callable[[Unit], Result], name: str) -> None:
        self._work = work
        self._name = name
        self._finished: Queue[tuple[int, Result | BaseException]] = Queue()
        self._running: dict[int, tuple[Unit, float]] = {}
        self._started = 0

    @property
    def running(self) -> int:
        """The number of units that are not finished."""
        return len(self._running)

    def start(self, unit: Unit) -> None:
        """Start a unit."""
        self._started += 1
        self._running[self._started] = unit, time.monotonic()
        Thread(target=self._run, args=(self._started, unit), name=self._name, daemon=True).start()

    def wait(self, seconds: float) -> list[tuple[Unit, Result]]:
        """Wait until a unit is finished, or the seconds have passed; return the finished ones.

        Returns at once if no unit runs. Raises what a unit raised.
        """
        finished: list[tuple[Unit, Result]] = []
        timeout = seconds if self._running else 0.0
        while True:
            try:
                number, result = self._finished.get(timeout=timeout) if timeout else self._take()
            except Empty:
                return finished
            timeout = 0.0
            unit, _ = self._running.pop(number, (None, 0.0))
            if isinstance(result, BaseException):
                raise result
            if unit is not None:  # else it was abandoned
                finished.append((unit, result))

    def abandon(self, seconds: float) -> list[Unit]:
        """Stop waiting for the units that have run for longer than this, and return them."""
        oldest = time.monotonic() - seconds
        numbers = [number for number, (_, start) in self._running.items() if start < oldest]
        return [self._running.pop(number)[0] for number in numbers]

    def _take(self) -> tuple[int, Result | BaseException]:
        return self._finished.get_nowait()

    def _run(self, number: int, unit: Unit) -> None:
        try:
            result: Result | BaseException = self._work(unit)
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            result = error
        self._finished.put((number, result))
