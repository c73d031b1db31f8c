"""Jobs of one process: their threads and timeouts, and the problems that they log."""

import time
from collections.abc import Callable
from threading import Event, Lock, Thread
from typing import Any

import structlog

log = structlog.get_logger()


class ProblemLog:
    """The problems that this process has logged, and that have not ended. Threads may share it."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], dict[str, Any]] = {}

    def note(self, event: str, subject: str, problem: str | None, **fields: Any) -> None:
        """Log a warning, unless the last one about this subject was the same. None ends it.

        subject distinguishes the problems of an event; fields are logged as well.
        """
        if problem is None:
            self._known.pop((event, subject), None)
            return
        logged = fields | {"problem": problem}
        if self._known.get((event, subject)) != logged:
            self._known[event, subject] = logged
            log.warning(event, **logged)


HANG_TIME = 600.0
"""The time in seconds without progress after which a run no longer keeps the next from starting."""


class JobRun:
    """One run of a job. The job reports its progress here, and asks whether it has to stop.

    on_trigger is called for each trigger during the run, for a job that looks for work meanwhile.
    A job sets is_repeated to run once more after this run.
    """

    on_trigger: Callable[[], None] = staticmethod(lambda: None)
    is_repeated = False

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._stopping = Event()
        self._progress_at = monotonic()

    def progress(self) -> None:
        """Report that the run is alive."""
        self._progress_at = self._monotonic()

    @property
    def is_stopping(self) -> bool:
        """True once the run has to end: it starts nothing new, and finishes what it began."""
        return self._stopping.is_set()

    def stop(self) -> None:
        """Ask the run to end."""
        self._stopping.set()

    def sleep(self, seconds: float) -> None:
        """Wait, but no longer than until the run has to stop."""
        self._stopping.wait(seconds)

    @property
    def idle_seconds(self) -> float:
        """The time since the last progress."""
        return self._monotonic() - self._progress_at


class SingleFlight:
    """Runs a job in a thread of its own, at most once at a time.

    A trigger that arrives during a run makes the job run once more after it, and returns at once:
    triggers never wait, and any number of them cost one run. An exception ends its run, is logged,
    and does not keep the next run from starting. If a run makes no progress for HANG_TIME, the next
    trigger logs an error and starts another run beside it.
    """

    def __init__(
        self,
        name: str,
        job: Callable[[JobRun], object],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._job = job
        self._monotonic = monotonic
        self._lock = Lock()
        self._run: JobRun | None = None
        self._thread: Thread | None = None
        self._is_requested = False
        self._is_stopped = False

    def trigger(self) -> None:
        """Start a run, or let the current one be followed by another. Never waits."""
        with self._lock:
            if self._is_stopped:
                return
            self._is_requested = True
            if self._run is not None and self._run.idle_seconds < HANG_TIME:
                self._run.on_trigger()
                return
            if self._run is not None:
                log.error("job_hangs", job=self._name, seconds=int(self._run.idle_seconds))
                self._run.stop()
            run = self._run = JobRun(self._monotonic)
            # A daemon: a run that hangs must not keep the process from ending.
            self._thread = Thread(target=self._loop, args=(run,), name=self._name, daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:  # no further thread: the next trigger tries again
                self._run = None
                log.warning("job_not_started", job=self._name, problem=str(error))

    def stop(self) -> None:
        """Let the current run end soon, and start no other."""
        self._is_stopped = True
        if self._run is not None:
            self._run.stop()

    def join(self, seconds: float) -> None:
        """Wait for the current run to end, for at most this time."""
        if self._thread is not None:
            self._thread.join(seconds)

    def _loop(self, run: JobRun) -> None:
        while self._is_due(run):
            run.progress()
            try:
                self._job(run)
            except Exception:
                # Logging scrubs secrets. The next trigger starts the job again.
                log.exception("job_failed", job=self._name)

    def _is_due(self, run: JobRun) -> bool:
        """Take the request for a run; end the loop if there is none, or another run took over."""
        with self._lock:
            if self._run is not run:
                return False
            if (self._is_requested or run.is_repeated) and not self._is_stopped:
                self._is_requested = run.is_repeated = False
                return True
            self._run = None
            return False
