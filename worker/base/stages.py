"""Times requests, their stages and webhooks, for histograms and traces.

Each process adds its durations up. worker.doctor.latencies moves the sums into the result store.
"""

import time
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from threading import Lock
from typing import Literal, Self

from worker.base.tracing import span

StageName = Literal["authenticate", "decide", "sign", "database", "commit"]
Histogram = Literal["queue_wait", "stage", "request", "webhook_delay"]

BOUNDS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0),
)
"""The upper bounds of the buckets in seconds. The last bucket, after them, has none."""

SUM = len(BOUNDS) + 1
"""The place after those of the buckets, of the sum in microseconds."""

Series = tuple[str, str]
"""A histogram, and its label: a queue, a stage, or an empty text."""

_lock = Lock()
_sums: dict[Series, list[int]] = {}


def observe(histogram: Histogram, label: str, seconds: float) -> None:
    """Record a duration. label is a queue or a stage; empty for webhook_delay."""
    place = bisect_left(BOUNDS, seconds)
    with _lock:
        numbers = _numbers((histogram, label))
        numbers[place] += 1
        numbers[SUM] += int(seconds * 1e6)


def _numbers(series: Series) -> list[int]:
    numbers = _sums.get(series)
    if numbers is None:
        numbers = _sums[series] = [0] * (SUM + 1)
    return numbers


def add_sums(sums: Mapping[Series, Iterable[tuple[int, int]]]) -> None:
    """Add numbers to the sums of this process, by series and place."""
    with _lock:
        for series, numbers in sums.items():
            for place, number in numbers:
                _numbers(series)[place] += number


def take_sums() -> dict[Series, list[tuple[int, int]]]:
    """Return the sums of this process that are not 0, by series and place, and reset them."""
    with _lock:
        taken = {series: [*enumerate(numbers)] for series, numbers in _sums.items()}
        _sums.clear()
    return {key: [each for each in numbers if each[1]] for key, numbers in taken.items()}


class stage:  # noqa: N801 - used like a function
    """Times a stage of the request that this thread works on, as a span of its trace as well."""

    __slots__ = ("_name", "_span", "_started")

    def __init__(self, name: StageName) -> None:
        self._name = name

    def __enter__(self) -> Self:
        self._span = span(self._name)
        self._span.__enter__()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        observe("stage", self._name, time.perf_counter() - self._started)
        self._span.__exit__(*error)  # type: ignore[arg-type]

    def switch(self, name: StageName) -> None:
        """End the stage, and begin the next one."""
        self.__exit__(None, None, None)
        self._name = name
        self.__enter__()
