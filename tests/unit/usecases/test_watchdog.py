"""The intake of events ends if it hangs, because only its supervisor can help then."""

from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest

from worker.event_intake import watchdog
from worker.jobs.single_flight import HANG_TIME
from worker.supervisor import STOP_TIMEOUT
from worker.usecases.uses.intake import queue_readers
from worker.usecases.uses.intake.queue_readers import QueueReaders


class Ended(Exception):
    """The process would have ended."""


@pytest.fixture(autouse=True)
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Let nothing wait, and return the times for which it would have waited."""
    sleeps: list[float] = []

    def end(_code: int) -> None:
        raise Ended

    monkeypatch.setattr(watchdog, "_INTERVAL", 0)
    monkeypatch.setattr(watchdog, "time", SimpleNamespace(sleep=sleeps.append))
    monkeypatch.setattr(watchdog, "os", SimpleNamespace(_exit=end))
    return sleeps


def test_a_process_without_progress_ends_after_a_while(sleeps: list[float]) -> None:
    idle = iter([0.0, HANG_TIME - 1, HANG_TIME, HANG_TIME])
    with pytest.raises(Ended):
        watchdog.end_hung_process(lambda: next(idle), Event())
    assert (list(idle), sleeps) == ([], [])


def test_a_process_that_is_told_to_stop_and_hangs_ends_before_it_is_killed(
    sleeps: list[float],
) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(Ended):
        watchdog.end_hung_process(lambda: 0.0, stop)
    assert len(sleeps) == 1
    assert 10 < sleeps[0] < STOP_TIMEOUT


@pytest.mark.parametrize(
    ("loop", "readers", "idle"), [(7, (), 3), (7, (9, 8), 3), (9, (10, 2), 8), (4, (9,), 6)]
)
def test_the_part_that_made_no_progress_for_the_longest_time_counts(
    loop: float, readers: tuple[float, ...], idle: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([loop, 10.0])
    monkeypatch.setattr(queue_readers, "time", SimpleNamespace(monotonic=lambda: next(times)))
    context: Any = None
    running: Any = SimpleNamespace(readers=[SimpleNamespace(progress_at=at) for at in readers])
    queues: Any = QueueReaders(context)
    queues._running = {"a queue": running}
    assert queues.idle_seconds() == idle
