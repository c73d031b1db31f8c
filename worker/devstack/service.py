"""The service's own processes, configured by environment variables."""

import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis

import worker
from worker.broker.heartbeats import read_heartbeats
from worker.devstack.processes import PRIVATE_UMASK, ChildProcess, Program, StartFailed, running

CHECKOUT = Path(worker.__file__).parents[1]
_PYTHON = (sys.executable, "-m")


def workers_are_alive(result_url: str, supervisors: Collection[int]) -> bool:
    """Return whether each of these `worker run` processes has a worker with a fresh heartbeat."""
    with redis.Redis.from_url(result_url) as client:
        alive = {heartbeat.supervisor for heartbeat in read_heartbeats(client)}
    return alive.issuperset(supervisors)


@dataclass(frozen=True, slots=True)
class Commands:
    """The service's commands that a stack runs, and the check that its workers are ready."""

    migrate: tuple[str, ...] = (*_PYTHON, "worker", "migrate")
    apply: tuple[str, ...] = (*_PYTHON, "worker", "apply", "--yes")
    worker: tuple[str, ...] = (*_PYTHON, "worker", "run", "--only", "issue")
    beat: tuple[str, ...] = (*_PYTHON, "worker", "run", "--only", "upkeep")
    are_workers_ready: Callable[[str, Collection[int]], bool] = workers_are_alive


def run_command(command: tuple[str, ...], environ: Mapping[str, str]) -> str:
    """Run one of the service's commands until it exits, and return what it printed.

    Raises StartFailed with its output.
    """
    completed = subprocess.run(
        command,
        cwd=CHECKOUT,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        umask=PRIVATE_UMASK,
    )
    if completed.returncode:
        raise StartFailed(f"`{' '.join(command)}` failed:\n{completed.stdout.strip()}")
    return completed.stdout.strip()


@contextmanager
def run_workers(
    commands: Commands, data: Path, environ: Mapping[str, str], inherited_fds: tuple[int, ...]
) -> Iterator[dict[str, ChildProcess]]:
    """Run one worker that responds to requests, and one with beat that sends webhooks.

    At the end of the block, running tasks may finish within Celery's soft shutdown timeout.
    """

    def program(name: str, command: tuple[str, ...]) -> Program:
        return Program(
            name,
            command,
            folder=CHECKOUT,
            log=data / "logs" / f"{name}.log",
            environ=environ,
            inherited_fds=inherited_fds,
        )

    def is_ready(worker: ChildProcess) -> bool:
        beat.check_running()
        return commands.are_workers_ready(environ["VALETKEY_RESULT_URL"], {worker.pid, beat.pid})

    with (
        running(program("beat", commands.beat), lambda _: True, stop_timeout=20) as beat,
        running(program("worker", commands.worker), is_ready, stop_timeout=20) as worker,
    ):
        yield {"worker": worker, "beat": beat}
