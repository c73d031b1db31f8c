"""Runs Celery workers as child processes, and starts one again that ended by itself.

Celery does not survive every loss of its broker, and the system may kill a process that uses too
much memory.
"""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from threading import Thread

import structlog

READY_VARIABLE = "VALETKEY_READY_FD"
"""The environment variable that names the file descriptor on which a worker says it is ready."""

SUPERVISOR_VARIABLE = "VALETKEY_SUPERVISOR_PID"
"""The environment variable that tells a worker the process id of its supervisor."""

RESTART_DELAYS = (1, 2, 4, 8, 16, 30)  # seconds; the last one repeats
STABLE_AFTER = 60  # seconds after which the next restart is quick again
STOP_TIMEOUT = 15  # seconds between SIGTERM and SIGKILL; Celery waits 10 s for running tasks
_POLL_INTERVAL = 0.2  # seconds

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
    was_ready: bool = False
    _ready_fd: int | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process."""
        read_fd, write_fd = os.pipe()
        try:
            self.process = subprocess.Popen(
                self.command,
                env={
                    **self.environ,
                    READY_VARIABLE: str(write_fd),
                    SUPERVISOR_VARIABLE: str(os.getpid()),
                },
                pass_fds=(write_fd,),
            )
        finally:
            os.close(write_fd)
        self._ready_fd, self.started_at, self.restart_at = read_fd, time.monotonic(), None

    def exit_code(self) -> int | None:
        """Return the exit code of the process if it has ended; note whether it was ever ready."""
        if self.process is None:
            return None
        code = self.process.poll()
        if self._ready_fd is not None and select.select([self._ready_fd], [], [], 0)[0]:
            self.was_ready = bool(os.read(self._ready_fd, 1)) or self.was_ready
            os.close(self._ready_fd)
            self._ready_fd = None
        return code

    def schedule_restart(self) -> int:
        """Forget the ended process; return the number of seconds until the next start."""
        self.process = None
        if time.monotonic() - self.started_at > STABLE_AFTER:
            self.failures = 0
        delay = RESTART_DELAYS[min(self.failures, len(RESTART_DELAYS) - 1)]
        self.failures += 1
        self.restart_at = time.monotonic() + delay
        return delay


class Supervisor:
    """Runs workers until a signal stops them."""

    def __init__(self, workers: Iterable[WorkerProcess]) -> None:
        self._workers = list(workers)
        self._kill_at: float | None = None  # set once the workers are stopping

    def add(self, worker: WorkerProcess) -> None:
        """Start another worker soon, unless the workers are stopping. Any thread may call it."""
        worker.restart_at = time.monotonic()
        if self._kill_at is None:
            self._workers.append(worker)

    def run(self) -> int:
        """Run all workers until SIGTERM or SIGINT; return the exit code for this process.

        A worker that ends before it was ever ready ends this process as well, with its exit code:
        its settings are wrong, and the process manager should see that.
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
            time.sleep(_POLL_INTERVAL)
        return 0

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
            worker.process = None
            return None
        if not worker.was_ready and code > 0:
            worker.process = None
            self._stop(signal.SIGTERM)
            self._wait_for_all()
            return code
        delay = worker.schedule_restart()
        log.error("worker_ended", worker=worker.name, exit_code=code, restart_in=delay)
        return None

    def _wait_for_all(self) -> None:
        while any(worker.exit_code() is None for worker in self._workers if worker.process):
            self._kill_late()
            time.sleep(_POLL_INTERVAL)

    def _stop(self, number: int) -> None:
        if self._kill_at is None:
            self._kill_at = time.monotonic() + STOP_TIMEOUT
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
                log.error("worker_killed", worker=worker.name, after=STOP_TIMEOUT)
                _signal(worker, signal.SIGKILL)


def _signal(worker: WorkerProcess, number: int) -> None:
    if worker.process is not None:
        worker.process.send_signal(number)


def _is_foreground() -> bool:
    try:
        return os.tcgetpgrp(sys.stdin.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # no terminal
        return False


def stop_with_supervisor() -> None:
    """Stop this worker, within seconds, if its supervisor ends before it.

    Nobody would restart or stop it any more. A thread looks, because a worker without its broker
    does not run its timers, and does not end on SIGTERM either.
    """
    supervisor = os.environ.get(SUPERVISOR_VARIABLE)
    if supervisor is not None:
        Thread(target=_watch_supervisor, args=(int(supervisor),), daemon=True).start()


def _watch_supervisor(pid: int) -> None:
    while os.getppid() == pid:
        time.sleep(1)
    log.error("supervisor_ended", supervisor=pid)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_TIMEOUT)
    os.kill(os.getpid(), signal.SIGKILL)


def say_ready() -> None:
    """Tell the supervisor of this process, if it has one, that this worker is ready."""
    text = os.environ.pop(READY_VARIABLE, "")
    if text:
        os.write(int(text), b"1")
        os.close(int(text))
