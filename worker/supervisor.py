"""Runs Celery workers as child processes, and starts one again that ended by itself.

Celery does not survive every loss of its broker, and the system may kill a process that uses too
much memory.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from worker.base import progress
from worker.base.progress import PROGRESS_VARIABLE, SUPERVISOR_VARIABLE
from worker.health import HealthSocket, ServiceManager, WorkerHealth

RESTART_DELAYS = (1, 2, 4, 8, 16, 30)  # seconds; the last one repeats
STABLE_AFTER = 60  # seconds after which the next restart is quick again
_POLL_INTERVAL = 0.2  # seconds
LIVE_SECONDS = 60.0
"""The time without progress after which a worker is not live.

While Redis is frozen, a worker's loop waits up to 5 s for each of several commands.
"""
_NOTIFY_INTERVAL = 1.0  # seconds
_PIPE_BYTES = 65_536

log = structlog.get_logger()


@dataclass(slots=True)
class WorkerProcess:
    """One worker: its command, and the process that runs it, if any."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0
    restart_at: float | None = None
    failures: int = 0
    has_reported: bool = False
    was_added: bool = False
    was_ready: bool = False
    problem: str | None = None
    """The reason why it takes no work, as it has reported last."""
    silent_seconds: float = 0
    _progress_fd: int | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process."""
        read_fd, write_fd = os.pipe()
        os.set_blocking(read_fd, False)
        os.set_blocking(write_fd, False)
        try:
            self.process = subprocess.Popen(
                self.command,
                env={
                    **self.environ,
                    PROGRESS_VARIABLE: str(write_fd),
                    SUPERVISOR_VARIABLE: str(os.getpid()),
                },
                pass_fds=(write_fd,),
            )
        finally:
            os.close(write_fd)
        self._progress_fd, self.started_at, self.restart_at = read_fd, time.monotonic(), None
        self.problem, self.silent_seconds = "it starts", 0

    def exit_code(self) -> int | None:
        """Return the exit code of the process if it has ended."""
        code = None if self.process is None else self.process.poll()
        if code is not None:
            self.read_progress(0)
        return code

    def read_progress(self, seconds: float) -> None:
        """Read what it has reported in the last `seconds`."""
        self.silent_seconds += seconds
        if self._progress_fd is None:
            return
        with suppress(BlockingIOError, ValueError):  # there is no report, or the last one is cut
            reports = os.read(self._progress_fd, _PIPE_BYTES).splitlines()
            if reports:
                self.problem, self.silent_seconds = json.loads(reports[-1]), 0
                self.has_reported = True

    def health(self, problem: str | None) -> WorkerHealth:
        """Return its health; problem is one of the whole `run`."""
        if self.process is None:
            problem = problem or "it has ended, and is started again"
        elif self.silent_seconds >= progress.READY_SECONDS:
            problem = f"it has made no progress for {self.silent_seconds:.0f} s"
        problem = problem or self.problem
        return WorkerHealth(
            role=self.name,
            pid=None if self.process is None else self.process.pid,
            live=self.process is None or self.silent_seconds < LIVE_SECONDS,
            ready=problem is None,
            problem=problem,
        )

    def schedule_restart(self) -> int:
        """Forget the ended process; return the number of seconds until the next start."""
        self.forget_process()
        if time.monotonic() - self.started_at > STABLE_AFTER:
            self.failures = 0
        delay = RESTART_DELAYS[min(self.failures, len(RESTART_DELAYS) - 1)]
        self.failures += 1
        self.restart_at = time.monotonic() + delay
        return delay

    def forget_process(self) -> None:
        """Forget the ended process."""
        self.process = None
        if self._progress_fd is not None:
            os.close(self._progress_fd)
            self._progress_fd = None


class Supervisor:
    """Runs workers until a signal stops them.

    find_problem returns why none of them is ready, if it knows a reason.
    """

    def __init__(
        self,
        workers: Iterable[WorkerProcess],
        socket: HealthSocket | None = None,
        find_problem: Callable[[], str | None] = lambda: None,
    ) -> None:
        self._workers = list(workers)
        self._socket = socket
        self._find_problem = find_problem
        self._waited_at = self._notify_at = time.monotonic()
        self._manager = ServiceManager()
        self._kill_at: float | None = None  # set once the workers are stopping

    def add(self, worker: WorkerProcess) -> None:
        """Start another worker soon, unless the workers are stopping. Any thread may call it.

        It is restarted even if it was never ready: the others, which work, must not end with it.
        """
        worker.restart_at, worker.was_added = time.monotonic(), True
        if self._kill_at is None:
            self._workers.append(worker)

    def run(self) -> int:
        """Run all workers until SIGTERM or SIGINT; return the exit code for this process.

        A worker that ends before it was ever ready ends this process as well, with its exit code,
        unless it was added later: its settings are wrong, and the process manager should see that.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, lambda number, _frame: self._stop(number))
        for worker in self._workers:
            worker.start()
        while any(worker.process or worker.restart_at for worker in self._workers):
            for worker in tuple(self._workers):
                code = self._check(worker)
                if code is not None:
                    return code
            self._kill_late()
            self._wait()
        return 0

    def _wait(self) -> None:
        """Wait a moment, answer who asks for the workers' health, and read their progress."""
        if self._socket is None:
            time.sleep(_POLL_INTERVAL)
        elif select.select([self._socket], [], [], _POLL_INTERVAL)[0]:
            self._socket.answer(self._health())
        now = time.monotonic()
        # If this process was frozen, the workers may have been as well: the time does not count.
        seconds, self._waited_at = min(now - self._waited_at, 1.0), now
        for worker in self._workers:
            worker.read_progress(seconds)
        if now >= self._notify_at:
            self._notify_at = now + _NOTIFY_INTERVAL
            self._report(self._health())

    def _report(self, states: list[WorkerHealth]) -> None:
        """Report the state to the service manager, and log each change of a worker's readiness."""
        self._manager.notify(states)
        # Another thread may have added a worker since its state was asked.
        for worker, state in zip(self._workers, states, strict=False):
            if state["ready"] == worker.was_ready or self._kill_at is not None:
                continue
            worker.was_ready = state["ready"]
            if state["ready"]:
                log.info("worker_ready", worker=worker.name)
            else:
                log.warning("worker_not_ready", worker=worker.name, problem=state["problem"])

    def _health(self) -> list[WorkerHealth]:
        problem = self._find_problem() if self._kill_at is None else "it is stopping"
        return [worker.health(problem) for worker in self._workers]

    def _check(self, worker: WorkerProcess) -> int | None:
        """Start, restart or give up a worker; return an exit code to end this process with."""
        code = worker.exit_code()
        if code is not None:
            return self._ended(worker, code)
        is_due = worker.restart_at is not None and time.monotonic() >= worker.restart_at
        if is_due and self._kill_at is None:
            worker.start()
        return None

    def _ended(self, worker: WorkerProcess, code: int) -> int | None:
        if self._kill_at is not None:
            worker.forget_process()
            return None
        if not (worker.has_reported or worker.was_added) and code > 0:
            worker.forget_process()
            self._stop(signal.SIGTERM)
            self._wait_for_all()
            return code
        delay = worker.schedule_restart()
        log.error("worker_ended", worker=worker.name, exit_code=code, restart_in=delay)
        return None

    def _wait_for_all(self) -> None:
        while any(worker.exit_code() is None for worker in self._workers if worker.process):
            self._kill_late()
            self._wait()

    def _stop(self, number: int) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + progress.STOP_TIMEOUT
        for worker in self._workers:
            worker.restart_at = None
            # A terminal sends Ctrl-C to the whole foreground group. A second SIGINT would stop
            # Celery without waiting for its tasks.
            if number != signal.SIGINT or not _is_foreground():
                _signal(worker, number)

    def _kill_late(self) -> None:
        """Kill workers that do not stop in time: Celery can hang in its own signal handler."""
        if self._kill_at is None or time.monotonic() < self._kill_at:
            return
        for worker in self._workers:
            if worker.process is not None and worker.process.poll() is None:
                log.error("worker_killed", worker=worker.name, after=progress.STOP_TIMEOUT)
                _signal(worker, signal.SIGKILL)


def _signal(worker: WorkerProcess, number: int) -> None:
    if worker.process is not None:
        worker.process.send_signal(number)


def _is_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # no terminal
        return False
