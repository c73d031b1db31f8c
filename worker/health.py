"""`health`: the state of the workers of this user's `worker run` processes, without any server.

A `run` answers on a socket, from the loop that supervises its workers. Nothing is written to disk:
a full disk fails no probe, and a `run` that is frozen does not answer.
"""

import json
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

import click

from worker.base.private_files import create_private_folder

ALL_ROLES = "all"
"""The role of a `run` that runs the workers of all roles."""

_ANSWER_SECONDS = 5.0  # a machine under load needs one
_STARTS_LONGER = "EXTEND_TIMEOUT_USEC=60000000"
_PRIVATE = 0o40700  # a folder for its owner only

_HINT = "python -m worker run starts one; TMPDIR must be the same for both commands"


class WorkerHealth(TypedDict):
    """The state of a worker. problem is None if it is ready."""

    role: str
    pid: int | None
    live: bool
    ready: bool
    problem: str | None


def _socket_folder() -> Path:
    """Return the folder of the sockets of this user's runs. Raises OSError."""
    folder = Path(tempfile.gettempdir()) / f"valetkey-{os.getuid()}"
    create_private_folder(folder)
    status = folder.lstat()
    if (status.st_uid, status.st_mode) != (os.getuid(), _PRIVATE):  # anyone could create it
        raise PermissionError(f"{folder} is not a folder of this user with the mode 0700")
    return folder


class HealthSocket:
    """The socket on which a `run` answers `health`. Raises OSError."""

    def __init__(self, role: str) -> None:
        self._path = _socket_folder() / f"{os.getpid()}-{role}"
        unfinished = self._path.with_name(f".{self._path.name}")
        unfinished.unlink(missing_ok=True)  # of a killed run with the same process id
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.setblocking(False)
        self._socket.bind(str(unfinished))
        self._socket.listen()
        unfinished.replace(self._path)  # `health` removes a socket that refuses connections

    def fileno(self) -> int:
        """Return the file descriptor that is readable while a `health` waits."""
        return self._socket.fileno()

    def answer(self, workers: list[WorkerHealth]) -> None:
        """Answer one `health` that waits. Never blocks."""
        with suppress(OSError):  # it has ended meanwhile
            connection, _ = self._socket.accept()
            with connection:
                connection.setblocking(False)
                connection.send(json.dumps(workers).encode())

    def close(self) -> None:
        """Remove the socket."""
        self._socket.close()
        self._path.unlink(missing_ok=True)


class ServiceManager:
    """Reports to systemd the state of a unit of Type=notify, as sd_notify does (man sd_notify)."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        self._was_ready = False

    def notify(self, workers: list[WorkerHealth]) -> None:
        """Send the state, if there is a service manager. Never blocks.

        Until all workers are ready for the first time, the start may take as long as they are live.
        """
        if not self._address:
            return
        is_ready = all(worker["ready"] for worker in workers)
        self._was_ready = self._was_ready or is_ready
        lines = ["STATUS=" + ("; ".join(describe_problems(workers)) or "ready")]
        if all(worker["live"] for worker in workers):
            lines += ["WATCHDOG=1", "READY=1" if self._was_ready else _STARTS_LONGER]
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.setblocking(False)
            notifier.sendto("\n".join(lines).encode(), self._address)


def describe_problems(workers: list[WorkerHealth]) -> list[str]:
    """Return the problems of workers, each with its role."""
    return [f"{each['role']}: {each['problem']}" for each in workers if each["problem"]]


def _ask(path: Path) -> list[WorkerHealth]:
    """Return what a run says of its workers, nothing if it has ended."""
    pid, _, role = path.name.partition("-")
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_SECONDS)
            connection.connect(str(path))
            with connection.makefile("rb") as stream:
                answer: list[WorkerHealth] = json.load(stream)
    except (ConnectionRefusedError, FileNotFoundError):
        path.unlink(missing_ok=True)  # the run was killed
        return []
    except (OSError, ValueError):
        problem = f"its `worker run` does not answer within {_ANSWER_SECONDS:g} s"
        return [WorkerHealth(role=role, pid=int(pid), live=False, ready=False, problem=problem)]
    return answer


def _find_workers(role: str | None) -> list[WorkerHealth]:
    roles = {role, ALL_ROLES}
    return [
        worker
        for path in sorted(_socket_folder().glob("[1-9]*-*"))
        if role is None or path.name.partition("-")[2] in roles
        for worker in _ask(path)
        if role is None or worker["role"] in roles
    ]


@click.command()
@click.option("--live", "probe", flag_value="live", help="Exit with 0 if all are live.")
@click.option("--ready", "probe", flag_value="ready", help="If all are ready [default].")
@click.option("--role", metavar="ROLE", help="Only of this role, such as issue or upkeep.")
@click.pass_context
def health(context: click.Context, /, *, probe: str | None, role: str | None) -> None:
    """Print whether this user's workers on this machine are live and ready, as a line of JSON.

    A live worker makes progress, or tries to reach an unreachable service. A ready one takes
    messages, and reaches the broker, the result store and the database. Asks `worker run`, and
    needs no settings and no server. Exits with 1 if a worker is not live or ready, or none runs.

    \b
    Examples:
      python -m worker health --live
      python -m worker health --ready --role issue
    """
    try:
        workers = _find_workers(role)
    except OSError as error:
        raise click.ClickException(f"{error}: see TMPDIR") from None
    problems = describe_problems(workers)
    if not workers:
        problems = [f"no worker {f'of the role {role} ' if role else ''}runs here: {_HINT}"]
    is_live, is_ready = (
        bool(workers) and all(each[name] for each in workers) for name in ("live", "ready")
    )
    state = {"live": is_live, "ready": is_ready, "workers": workers}
    click.echo(json.dumps(state | {"problem": "; ".join(problems) or None}))
    context.exit(0 if (is_live if probe == "live" else is_ready) else 1)
