"""Units of work run at once, and a unit that fails or hangs is seen by the caller."""

import time
from threading import Barrier, Event

import pytest

from worker.base.jobs import ThreadGroup


def wait_for_all(group: ThreadGroup[int, int]) -> list[tuple[int, int]]:
    finished: list[tuple[int, int]] = []
    while group.running:
        finished += group.wait(10)
    return sorted(finished)


def test_units_run_at_the_same_time_and_return_their_results() -> None:
    barrier = Barrier(5)

    def work(unit: int) -> int:
        barrier.wait(10)
        return unit * 2

    group = ThreadGroup(work, "units")
    for unit in range(5):
        group.start(unit)
    assert wait_for_all(group) == [(unit, unit * 2) for unit in range(5)]


def test_waiting_returns_at_once_if_nothing_runs() -> None:
    start = time.monotonic()
    group: ThreadGroup[int, int] = ThreadGroup(int, "units")
    assert group.wait(10) == []
    assert time.monotonic() - start < 5


def test_what_a_unit_raises_is_raised_to_the_caller() -> None:
    def work(unit: int) -> int:
        return 1 // unit

    group = ThreadGroup(work, "units")
    group.start(0)
    with pytest.raises(ZeroDivisionError):
        group.wait(10)
    assert group.running == 0


def test_an_abandoned_unit_is_not_waited_for_and_its_result_is_dropped() -> None:
    gate = Event()

    def work(unit: int) -> int:
        gate.wait(10)
        return unit

    group = ThreadGroup(work, "units")
    group.start(1)
    assert group.abandon(1000) == []
    assert group.abandon(-1) == [1]
    assert group.running == 0
    group.start(2)
    gate.set()
    assert wait_for_all(group) == [(2, 2)]
