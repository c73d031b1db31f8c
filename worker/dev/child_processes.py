"""Child processes, ready when their block begins and stopped when it ends, and their ports."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from worker.base.private_files import create_private_file, create_private_folder
from worker.dev import child_guard
from worker.errors import WorkerError

_GUARD = (sys.executable, "-I", "-S", str(Path(child_guard.__file__)))
_POLL_INTERVAL = 0.05  # seconds
PRIVATE_UMASK = 0o077  # only the owner can read what the children write


class StartFailed(WorkerError):
    """A part of the embedded stack failed to start."""


class ProcessEnded(WorkerError):
    """A part of the embedded stack ended unexpectedly."""


@dataclass(frozen=True, slots=True)
class Program:
    """A command to run, its working folder and its log.

    The command's first word is a path. The child sees only the variables in `environ`, and inherits
    only the file descriptors in `inherited_fds` besides its standard streams.
    """

    name: str
    command: Sequence[str]
    folder: Path
    log: Path
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    inherited_fds: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ChildProcess:
    """A running program."""

    name: str
    log: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int:
        """Its process id, which is also the id of the process group that it leads."""
        return self.process.pid

    def check_running(self) -> None:
        """Raise ProcessEnded, naming the log, if the process has ended."""
        exit_code = self.process.poll()
        if exit_code is not None:
            raise ProcessEnded(
                f"{self.name} ended unexpectedly (exit code {exit_code}): see {self.log}"
            )


@contextmanager
def running(
    program: Program,
    is_ready: Callable[[ChildProcess], bool],
    *,
    ready_timeout: float = 30,
    stop_timeout: float = 10,
) -> Iterator[ChildProcess]:
    """Start a program, run the block once it is ready, and stop the program when the block ends.

    `ready_timeout` limits the wait for readiness, `stop_timeout` the wait between SIGTERM and
    SIGKILL, both in seconds. The program leads its own process group, so that Ctrl-C reaches only
    this process, which stops its children in order. The program is also stopped if this process is
    killed. Raises StartFailed, which names the log.
    """
    with _process_guard(stop_timeout) as guard_child:
        child = ChildProcess(program.name, program.log, _start(program))
        try:
            guard_child(child)
            _wait_until_ready(child, is_ready, ready_timeout)
            yield child
        finally:
            _stop(child, stop_timeout)


@contextmanager
def _process_guard(stop_timeout: float) -> Iterator[Callable[[ChildProcess], None]]:
    with subprocess.Popen(
        [*_GUARD, str(stop_timeout)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield lambda child: print(child.pid, file=process.stdin, flush=True)
        finally:
            process.kill()


def _start(program: Program) -> subprocess.Popen[bytes]:
    for folder in (program.folder, program.log.parent):
        create_private_folder(folder)
    create_private_file(program.log)
    with program.log.open("ab") as log:
        program.log.chmod(0o600)
        return subprocess.Popen(
            program.command,
            cwd=program.folder,
            env=program.environ,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=program.inherited_fds,
            start_new_session=True,
            umask=PRIVATE_UMASK,
        )


def _wait_until_ready(
    child: ChildProcess, is_ready: Callable[[ChildProcess], bool], timeout: float
) -> None:
    end = time.monotonic() + timeout
    while not is_ready(child):
        exit_code = child.process.poll()
        if exit_code is not None:
            raise StartFailed(
                f"{child.name} ended during startup (exit code {exit_code}): see {child.log}"
            )
        if time.monotonic() > end:
            raise StartFailed(f"{child.name} is not ready after {timeout:g} s: see {child.log}")
        time.sleep(_POLL_INTERVAL)


def _stop(child: ChildProcess, timeout: float) -> None:
    child.process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            child.process.wait(timeout)
    finally:
        # Kill the remaining processes of the group. macOS raises EPERM if only a zombie remains.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.process.wait()


HOST = "127.0.0.1"


@contextmanager
def reserved_ports(*requested: int | None) -> Iterator[list[int]]:
    """Reserve ports of 127.0.0.1: each requested one, and a free one for each None.

    Linux gives no other process a port that is bound here, but lets a server listen on it because
    both set SO_REUSEADDR, so parallel starts cannot collide. On other systems the ports are
    released at once, and another process may take one first. Raises StartFailed if a requested port
    is taken.
    """
    with ExitStack() as stack:
        sockets = [stack.enter_context(_bind_port(port)) for port in requested]
        ports = [bound.getsockname()[1] for bound in sockets]
        if sys.platform != "linux":
            stack.close()
        yield ports


def is_free_port(port: int) -> bool:
    """Return whether a server can use this port of 127.0.0.1."""
    try:
        _bind_port(port).close()
    except StartFailed:
        return False
    return True


def _bind_port(port: int | None) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port or 0))
    except OSError as error:
        bound.close()
        if error.errno != errno.EADDRINUSE:
            raise
        raise StartFailed(
            f"Port {port} of {HOST} is taken by another process. Choose another port, or omit the "
            "option to use a free one."
        ) from None
    return bound
