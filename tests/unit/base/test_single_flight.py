"""A job that several threads trigger runs at most once at a time, and never gets stuck."""

from collections.abc import Iterator
from threading import Event, Thread
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from tests.support.servers.waiting import wait_until
from worker.base.jobs import HANG_TIME, JobRun, SingleFlight


class Job:
    """A job that waits to be released, and counts its runs."""

    def __init__(self) -> None:
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


@pytest.fixture
def job() -> Iterator[Job]:
    job = Job()
    yield job
    job.gate.set()


@pytest.fixture
def monotonic() -> SimpleNamespace:
    return SimpleNamespace(time=0.0)


@pytest.fixture
def flight(job: Job, monotonic: SimpleNamespace) -> Iterator[SingleFlight]:
    flight = SingleFlight("job", job, lambda: monotonic.time)
    yield flight
    job.gate.set()
    flight.join(10)


def start(job: Job, flight: SingleFlight) -> None:
    flight.trigger()
    wait_until(lambda: job.running == 1)


def run_to_end(job: Job, flight: SingleFlight) -> None:
    job.gate.set()
    flight.join(10)
    wait_until(lambda: job.running == 0)  # a run that was reported as hanging is not joined


def test_any_number_of_triggers_during_a_run_cost_one_more_run(
    job: Job, flight: SingleFlight
) -> None:
    start(job, flight)
    threads = [Thread(target=flight.trigger) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run_to_end(job, flight)
    assert (job.started, job.most_running) == (2, 1)


def test_a_trigger_after_a_run_starts_the_next(job: Job, flight: SingleFlight) -> None:
    for expected in (1, 2):
        flight.trigger()
        run_to_end(job, flight)
        assert job.started == expected


def test_an_exception_is_logged_and_does_not_keep_the_next_run_from_starting(
    job: Job, flight: SingleFlight
) -> None:
    job.error = ZeroDivisionError()
    with capture_logs() as logs:
        start(job, flight)
        flight.trigger()
        run_to_end(job, flight)
        flight.trigger()
        flight.join(10)
    assert job.started == 3
    assert [(entry["event"], entry["job"]) for entry in logs] == [("job_failed", "job")] * 3


def test_a_run_without_progress_for_ten_minutes_is_reported_and_another_starts_beside_it(
    job: Job, flight: SingleFlight, monotonic: SimpleNamespace
) -> None:
    start(job, flight)
    monotonic.time += HANG_TIME
    with capture_logs() as logs:
        flight.trigger()
    wait_until(lambda: job.running == 2)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("job_hangs", "error")]
    assert [run.is_stopping for run in job.runs] == [True, False]
    run_to_end(job, flight)
    wait_until(lambda: job.running == 0)
    assert job.started == 2


def test_a_run_that_reports_progress_is_not_taken_for_hanging(
    job: Job, flight: SingleFlight, monotonic: SimpleNamespace
) -> None:
    start(job, flight)
    monotonic.time += HANG_TIME - 1
    job.runs[0].progress()
    monotonic.time += HANG_TIME - 1
    flight.trigger()
    run_to_end(job, flight)
    assert (job.started, job.most_running) == (2, 1)


def test_a_stopped_job_ends_its_run_and_starts_no_other(job: Job, flight: SingleFlight) -> None:
    start(job, flight)
    flight.trigger()
    flight.stop()
    assert job.runs[0].is_stopping
    run_to_end(job, flight)
    flight.trigger()
    assert job.started == 1
