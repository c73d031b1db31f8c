"""Child processes that are ready when they are handed over, and gone when they are handed back."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from worker.devstack import guard
from worker.errors import WorkerError

_GUARD = (sys.executable, "-I", "-S", str(Path(guard.__file__)))
_PAUSE = 0.05  # seconds between two looks
PRIVATE_UMASK = 0o077  # umask: what our children write is for their user alone


class StartFailed(WorkerError):
    """A part of the embedded stack did not come up."""


class ProcessEnded(WorkerError):
    """A part of the embedded stack ended by itself."""


@dataclass(frozen=True, slots=True)
class Program:
    """What to run, and where it writes.

    The command's first word is a path. Environ is all that it sees of the environment, and keep
    names the file descriptors that it inherits.
    """

    name: str
    command: Sequence[str]
    folder: Path
    log: Path
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    keep: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A running program."""

    name: str
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        """Its process id, and that of the process group it leads."""
        return self.process.pid

    def must_run(self) -> None:
        """Raise Ended, saying where the log is, if it does not run any more."""
        code = self.process.poll()
        if code is not None:
            raise ProcessEnded(f"{self.name} ended by itself (exit code {code}): see {self.log}")


@contextmanager
def running(
    program: Program,
    ready: Callable[[ChildProcess], bool],
    *,
    patience: float = 30,
    grace: float = 10,
) -> Iterator[ChildProcess]:
    """Run a program for as long as the block lasts, entered once it is ready.

    Patience (seconds) bounds the wait for that, grace the one between SIGTERM and SIGKILL. It leads
    a process group of its own, so that Ctrl-C reaches only us, who know the order to stop in. It
    does not outlive us either. Raises NotStarted, which names the log.
    """
    with _guarded(grace) as protect:
        child = ChildProcess(program.name, program.log, _popen(program))
        try:
            protect(child)
            _wait_until(child, ready, patience)
            yield child
        finally:
            _stop(child, grace)


@contextmanager
def _guarded(grace: float) -> Iterator[Callable[[ChildProcess], None]]:
    nothing, pipe = subprocess.DEVNULL, subprocess.PIPE
    with subprocess.Popen(
        [*_GUARD, str(grace)],
        stdin=pipe,
        stdout=nothing,
        stderr=nothing,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield lambda child: print(child.pid, file=process.stdin, flush=True)
        finally:
            process.kill()


def _popen(program: Program) -> subprocess.Popen[bytes]:
    for folder in (program.folder, program.log.parent):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with program.log.open("ab") as log:
        program.log.chmod(0o600)
        return subprocess.Popen(
            program.command,
            cwd=program.folder,
            env=program.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=program.keep,
            start_new_session=True,
            umask=PRIVATE_UMASK,
        )


def _wait_until(
    child: ChildProcess, ready: Callable[[ChildProcess], bool], patience: float
) -> None:
    end = time.monotonic() + patience
    while not ready(child):
        code = child.process.poll()
        if code is not None:
            raise StartFailed(
                f"{child.name} ended as it started (exit code {code}): see {child.log}"
            )
        if time.monotonic() > end:
            raise StartFailed(f"{child.name} is not ready after {patience:g} s: see {child.log}")
        time.sleep(_PAUSE)


def _stop(child: ChildProcess, grace: float) -> None:
    child.process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(grace)
    finally:
        # Whatever is left of the group; macOS says EPERM where only a zombie is.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.process.wait()
