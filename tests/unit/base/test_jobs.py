"""Jobs that run once at a time, their threads and problems."""

import threading
import time
from collections.abc import Iterator
from threading import Barrier, Event, Thread

import pytest
from structlog.testing import capture_logs

from tests.support.servers.waiting import wait_until
from worker.base.jobs import HANG_TIME, JobRun, ProblemLog, SingleFlight
from worker.shared.threads import ThreadGroup


class Job:
    """A job that waits to be released, and counts its runs. now is its monotonic clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.flight = SingleFlight("job", self, lambda: self.now)
        self.started = 0
        self.running = 0
        self.most_running = 0
        self.gate = Event()
        self.error: Exception | None = None
        self.runs: list[JobRun] = []

    def __call__(self, run: JobRun) -> None:
        self.runs.append(run)
        self.started += 1
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            assert self.gate.wait(10)
            if self.error is not None:
                raise self.error
        finally:
            self.running -= 1

    def start(self) -> None:
        self.flight.trigger()
        wait_until(lambda: self.running == 1)

    def run_to_end(self) -> None:
        self.gate.set()
        self.flight.join(10)
        wait_until(lambda: self.running == 0)  # a run that was reported as hanging is not joined


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job()
    yield job
    job.gate.set()
    job.flight.join(10)


def test_any_number_of_triggers_during_a_run_cost_one_more_run(job: Job) -> None:
    job.start()
    threads = [Thread(target=job.flight.trigger) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    job.run_to_end()
    assert (job.started, job.most_running) == (2, 1)


def test_a_trigger_after_a_run_starts_the_next(job: Job) -> None:
    for expected in (1, 2):
        job.flight.trigger()
        job.run_to_end()
        assert job.started == expected


def test_a_run_learns_of_a_trigger_meanwhile(job: Job) -> None:
    triggers: list[str] = []
    job.start()
    job.runs[0].on_trigger = lambda: triggers.append("meanwhile")
    job.flight.trigger()
    assert triggers == ["meanwhile"]
    job.run_to_end()


def test_an_exception_is_logged_and_does_not_keep_the_next_run_from_starting(job: Job) -> None:
    job.error = ZeroDivisionError()
    with capture_logs() as logs:
        job.start()
        job.flight.trigger()
        job.run_to_end()
        job.flight.trigger()
        job.flight.join(10)
    assert job.started == 3
    assert [(entry["event"], entry["job"]) for entry in logs] == [("job_failed", "job")] * 3


def test_a_run_for_which_there_is_no_thread_is_started_by_the_next_trigger(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Thread) -> None:
        raise RuntimeError("can't start new thread")

    job.gate.set()
    with monkeypatch.context() as patch, capture_logs() as logs:
        patch.setattr(Thread, "start", fail)
        job.flight.trigger()
    assert [(entry["event"], entry["job"]) for entry in logs] == [("job_not_started", "job")]
    job.flight.trigger()
    job.run_to_end()
    assert job.started == 1


def test_a_run_without_progress_for_ten_minutes_is_reported_and_another_starts_beside_it(
    job: Job,
) -> None:
    job.start()
    job.now += HANG_TIME
    with capture_logs() as logs:
        job.flight.trigger()
    wait_until(lambda: job.running == 2)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("job_hangs", "error")]
    assert [run.is_stopping for run in job.runs] == [True, False]
    job.run_to_end()
    wait_until(lambda: job.running == 0)
    assert job.started == 2


def test_a_run_that_reports_progress_is_not_taken_for_hanging(job: Job) -> None:
    job.start()
    job.now += HANG_TIME - 1
    job.runs[0].progress()
    job.now += HANG_TIME - 1
    job.flight.trigger()
    job.run_to_end()
    assert (job.started, job.most_running) == (2, 1)


def test_a_stopped_job_ends_its_run_and_starts_no_other(job: Job) -> None:
    job.start()
    job.flight.trigger()
    job.flight.stop()
    assert job.runs[0].is_stopping
    job.run_to_end()
    job.flight.trigger()
    assert job.started == 1


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


def test_a_wait_ends_once_the_group_is_woken() -> None:
    gate = Event()
    group: ThreadGroup[int, bool] = ThreadGroup(lambda _: gate.wait(30), "units")
    group.start(1)
    group.wake()
    assert group.wait(30) == []
    gate.set()
    assert group.wait(30) == [(1, True)]


def test_units_after_one_another_run_in_one_thread_which_ends_with_the_group() -> None:
    group = ThreadGroup(int, "one after another")
    for unit in range(3):
        group.start(unit)
        group.wait(10)
    (thread,) = (each for each in threading.enumerate() if each.name == "one after another")
    del group
    thread.join(10)
    assert not thread.is_alive()


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


@pytest.mark.parametrize(
    ("subjects", "noted", "logged"),
    [
        pytest.param("aaa", ["x", "x", "x"], ["x"], id="a problem that stays: once"),
        pytest.param("aaa", ["x", "y", "x"], ["x", "y", "x"], id="one that changes: again"),
        pytest.param("aaa", ["x", None, "x"], ["x", "x"], id="one that ended and returns: again"),
        pytest.param("ab", ["x", "x"], ["x", "x"], id="that of another subject: too"),
    ],
)
def test_a_problem_is_logged_when_it_is_new(
    subjects: str, noted: list[str | None], logged: list[str]
) -> None:
    problems = ProblemLog()
    with capture_logs() as logs:
        for subject, text in zip(subjects, noted, strict=True):
            problems.note("left", subject, text, storage="a")
    assert [each["problem"] for each in logs] == logged
