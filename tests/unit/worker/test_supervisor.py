"""The supervisor with real child processes: small programs in place of Celery workers."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.servers.waiting import is_running, wait_until
from worker.supervisor import RESTART_DELAYS, WorkerProcess

READY = "import os; os.write(int(os.environ['VALETKEY_PROGRESS_FD']), b'null'); "
LOG_PID = "import os, pathlib; pathlib.Path('pids').open('a').write(f'{os.getpid()} '); "
WAIT = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: exit(0)); time.sleep(60)"
PROGRAM = """
import sys
from worker.supervisor import Supervisor, WorkerProcess
import os, worker.base.progress, worker.supervisor
worker.supervisor.RESTART_DELAYS = (0.1,)
worker.base.progress.STOP_TIMEOUT = 1
workers = [WorkerProcess(code, [sys.executable, "-c", code], os.environ) for code in sys.argv[1:]]
supervisor = Supervisor([worker for worker in workers if "# added" not in worker.name])
for worker in workers:
    if "# added" in worker.name:
        supervisor.add(worker)
sys.exit(supervisor.run())
"""
ADDED = "  # added"


class Run:
    """A supervisor process, and the process ids that its children have written down."""

    def __init__(self, folder: Path, *codes: str) -> None:
        self._pids = folder / "pids"
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *codes],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pids(self) -> list[int]:
        return list(map(int, self._pids.read_text().split())) if self._pids.exists() else []

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(20)


Start = Callable[..., Run]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A function that starts a supervisor of programs, and waits for a number of their starts."""
    started: list[Run] = []

    def start(*codes: str, starts: int) -> Run:
        run = Run(tmp_path, *codes)
        started.append(run)
        wait_until(lambda: len(run.pids) >= starts, what=f"there are {starts} starts of workers")
        return run

    yield start
    for run in started:
        run.process.kill()
        for pid in run.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        run.process.communicate()


def test_a_worker_that_was_killed_is_started_again(start: Start) -> None:
    run = start(READY + LOG_PID + WAIT, starts=1)
    os.kill(run.pids[0], signal.SIGKILL)
    wait_until(lambda: len(run.pids) == 2, what="the worker starts again")
    assert run.stop() == 0


def test_a_worker_that_ends_by_itself_is_started_again_each_time(start: Start) -> None:
    run = start(READY + LOG_PID + "exit(1)", starts=3)
    assert run.process.poll() is None


def test_a_worker_that_ends_before_it_was_ready_ends_the_supervisor_with_its_code(
    start: Start,
) -> None:
    run = start(READY + LOG_PID + WAIT, LOG_PID + "exit(3)", starts=0)
    assert run.process.wait(20) == 3
    wait_until(lambda: not any(map(is_running, run.pids)), what="the other worker stops")


def test_a_worker_that_was_added_is_started_again_and_ends_no_other(start: Start) -> None:
    run = start(READY + WAIT, LOG_PID + "exit(3)" + ADDED, starts=3)
    assert run.process.poll() is None


def test_all_workers_stop_with_the_supervisor(start: Start) -> None:
    run = start(READY + LOG_PID + WAIT, READY + LOG_PID + WAIT, starts=2)
    assert run.stop() == 0
    assert not any(map(is_running, run.pids))


def test_what_a_worker_that_ended_was_and_when_it_starts_is_logged(start: Start) -> None:
    run = start(READY + LOG_PID + "exit(7)", starts=2)
    run.stop()
    assert run.process.stdout is not None
    line = next(line for line in run.process.stdout if "worker_ended" in line)
    assert all(text in line for text in ("exit_code=7", "restart_in=0.1"))


def test_the_pause_before_a_restart_grows_and_ends_after_a_stable_run() -> None:
    worker = WorkerProcess("issue", [], {})
    worker.started_at = time.monotonic()
    delays = [worker.schedule_restart() for _ in range(len(RESTART_DELAYS) + 1)]
    assert delays == [*RESTART_DELAYS, RESTART_DELAYS[-1]]
    worker.started_at = time.monotonic() - 3_600
    assert worker.schedule_restart() == RESTART_DELAYS[0]


def test_a_worker_that_does_not_stop_is_killed(start: Start) -> None:
    deaf = "import signal, time; signal.signal(signal.SIGTERM, lambda *_: None); "
    run = start(READY + deaf + LOG_PID + "[time.sleep(1) for _ in range(60)]", starts=1)
    assert run.stop() == 0
    assert not is_running(run.pids[0])


def test_a_worker_ends_after_its_supervisor_was_killed(start: Start) -> None:
    watch = "from worker.base.progress import stop_with_supervisor; stop_with_supervisor(); "
    run = start(READY + watch + LOG_PID + WAIT, starts=1)
    run.process.kill()
    run.process.wait()
    wait_until(lambda: not is_running(run.pids[0]), what="the worker ends")
