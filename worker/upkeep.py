"""The jobs of the upkeep worker: each has a thread of its own, so that none waits for another."""

import time
from threading import Event, Thread

import structlog

from worker.app import job_context
from worker.base.clock_watch import WATCH
from worker.base.jobs import JobRun, SingleFlight
from worker.context import settings
from worker.errors import Transient
from worker.feature import Job
from worker.features import JOBS, resolve

log = structlog.get_logger()


class _JobRunner:
    """Runs a job, if it is due and the clock is right, and logs its counts."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._due_at = float("-inf")

    def __call__(self, run: JobRun) -> None:
        started = time.monotonic()
        # With a wrong clock it would release, send or sign at the wrong time.
        if started < self._due_at or not WATCH.is_right:
            return
        self._due_at = started + self._job.seconds
        try:
            counts = resolve(self._job.run)(job_context(), run)
        except Transient as error:
            log.warning("sweep_postponed", of=self._job.event, problem=str(error))
            return
        if any(counts.values()):
            duration = round(time.monotonic() - started, 4)
            log.info(self._job.event, **counts, duration=duration)


_FLIGHTS = {job: SingleFlight(job.name, _JobRunner(job)) for job in JOBS}


def trigger_jobs(task_name: str) -> None:
    """Start the jobs of a task. Never waits."""
    for job, flight in _FLIGHTS.items():
        if job.task == task_name:
            flight.trigger()


def _sweep() -> None:
    while True:
        for flight in _FLIGHTS.values():
            flight.trigger()
        if _STOPPING.wait(settings().sweep_seconds):
            return


_STOPPING = Event()
_SWEEPS = Thread(target=_sweep, name="sweeps", daemon=True)


def start_sweeps() -> bool:
    """Trigger all jobs again and again; return false if that was started before."""
    if _SWEEPS.is_alive():
        return False
    _SWEEPS.start()
    return True


def stop_jobs(seconds: float) -> None:
    """Let the jobs finish what they began, in so many seconds. What is cut off has a lease."""
    _STOPPING.set()
    end = time.monotonic() + seconds
    for flight in _FLIGHTS.values():
        flight.stop()
    for flight in _FLIGHTS.values():
        flight.join(max(end - time.monotonic(), 0))
