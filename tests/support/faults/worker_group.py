"""A worker as its own process group, which tests kill, stop and start again."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple

from tests.support.servers.waiting import is_running, wait_until
from worker.dev.child_processes import ChildProcess, Program, running

_CHECKOUT = Path(__file__).parents[3]
_POLL_SECONDS = 0.1
_STOP_SECONDS = 20.0  # between SIGTERM and SIGKILL, as docs/operating.md advises
_POSTPONED = '"issue_postponed"'


class ProcessInfo(NamedTuple):
    """A process of a group. cpu is the part of its life in which it used a processor, in %."""

    pid: int
    parent: int
    cpu: float


class WorkerGroup:
    """`python -m worker run` and all processes below it, under a process manager.

    The manager starts the worker again if it ends by itself; restarts counts that. forced_stops
    counts the orderly stops that did not end in time, and needed SIGKILL.
    """

    def __init__(self, name: str, data: Path, environ: Mapping[str, str]) -> None:
        self.restarts = 0
        self.forced_stops = 0
        self._log = data / "logs" / f"{name}.log"
        command = (sys.executable, "-m", "worker", "run")
        self._program = Program(name, command, _CHECKOUT, self._log, environ)
        self._stack = ExitStack()
        self._child: ChildProcess | None = None
        self._lock = threading.RLock()  # held while the worker is replaced
        self._is_closed = threading.Event()
        self._manager = threading.Thread(target=self._manage, daemon=True)

    def start(self) -> None:
        """Start it, and the manager with it, without waiting until it consumes messages."""
        with self._lock:
            self._child = self._stack.enter_context(running(self._program, lambda _: True))
        self._manager.start()

    def close(self) -> None:
        """Kill all its processes."""
        self._is_closed.set()
        self._manager.join()
        self._end_group()

    def kill(self) -> None:
        """Kill all its processes, and start it again once none is left."""
        with self._lock:
            self.send(signal.SIGKILL)
            self._replace()

    def stop_orderly(self) -> None:
        """Send SIGTERM to its first process, later SIGKILL to all, and start it again."""
        with self._lock:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.forced_stops += 1
            self._replace()

    def kill_process(self, pid: int) -> None:
        """Kill one of its processes, and wait until it is gone."""
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid), what="the killed process ends")

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        with self._lock:
            os.killpg(self._process.pid, signal_number)

    def processes(self) -> list[ProcessInfo]:
        """Return its processes, without zombies."""
        command = ["ps", "-A", "-o", "pid=,ppid=,pgid=,pcpu=,stat="]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        words = [line.split() for line in lines.splitlines()]
        return [
            ProcessInfo(int(pid), int(parent), float(cpu))
            for pid, parent, group, cpu, state in words
            if int(group) == self._process.pid and not state.startswith("Z")
        ]

    def working_children(self) -> list[ProcessInfo]:
        """Return the processes without children, those with the most work first.

        These are the children of Celery's pools, and beat, which has next to no work.
        """
        processes = self.processes()
        parents = {process.parent for process in processes}
        children = [process for process in processes if process.pid not in parents]
        return sorted(children, key=lambda process: process.cpu, reverse=True)

    @property
    def postponed(self) -> int:
        """The number of requests that it has postponed because something was unreachable."""
        return self._log.read_text(errors="replace").count(_POSTPONED)

    @property
    def log_size(self) -> int:
        """The size of its log in bytes."""
        return self._log.stat().st_size

    @property
    def _process(self) -> "subprocess.Popen[bytes]":
        assert self._child is not None
        return self._child.process

    def _manage(self) -> None:
        while not self._is_closed.wait(_POLL_SECONDS):
            with self._lock:
                if self._process.poll() is not None:
                    self.restarts += 1
                    self._replace()

    def _replace(self) -> None:
        self._end_group()
        self._child = self._stack.enter_context(running(self._program, lambda _: True))

    def _end_group(self) -> None:
        """Kill what is left of the group, and wait until nothing is."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        wait_until(lambda: not self.processes(), what="the worker's processes end")
        self._stack.close()
