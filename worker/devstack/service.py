"""The service itself as child processes, told by its environment where everything is."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from celery import Celery

import worker
from worker.devstack.processes import PRIVATE_UMASK, ChildProcess, Program, StartFailed, running

_CHECKOUT = Path(worker.__file__).parents[1]
_PYTHON = (sys.executable, "-m")
# A developer's own credentials must never sign for a toy storage, and Celery prefers its variables
# to what it is told.
_KEPT_OUT = ("AWS_", "CELERY_")


def workers_respond(broker_url: str) -> bool:
    """Tell whether both workers answer on this broker."""
    with Celery(config_source="celeryconfig", set_as_current=False) as app:
        # A developer's CELERY_BROKER_URL would win against broker_url.
        app.conf.update(broker_read_url=broker_url, broker_write_url=broker_url)
        return len(app.control.ping(timeout=0.5, limit=2)) == 2  # noqa: PLR2004 - see working


@dataclass(frozen=True, slots=True)
class Commands:
    """What the stack runs of the service, and how it learns that the workers are up."""

    migrate: tuple[str, ...] = (*_PYTHON, "worker", "migrate")
    apply: tuple[str, ...] = (*_PYTHON, "worker", "apply", "--yes")
    worker: tuple[str, ...] = (*_PYTHON, "worker", "run", "--only", "issue")
    beat: tuple[str, ...] = (*_PYTHON, "worker", "run", "--only", "upkeep")
    answers: Callable[[str], bool] = workers_respond


def service_environment(environ: Mapping[str, str], **given: str) -> dict[str, str]:
    """Give the service's environment: what is given, and of the rest what cannot mislead it."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_KEPT_OUT)}
    nowhere = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return kept | nowhere | given


def run_command(command: tuple[str, ...], environ: Mapping[str, str]) -> None:
    """Run one of the service's commands to its end. Raises NotStarted with what it said."""
    done = subprocess.run(
        command,
        cwd=_CHECKOUT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        umask=PRIVATE_UMASK,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise StartFailed(f"`{' '.join(command)}` failed:\n{said}")


@contextmanager
def run_workers(
    commands: Commands, data: Path, environ: Mapping[str, str], keep: tuple[int, ...]
) -> Iterator[dict[str, ChildProcess]]:
    """Run a worker that answers requests, and beat with one that sends webhooks.

    Stopping them lets what runs end, within Celery's own bound.
    """

    def program(name: str, command: tuple[str, ...]) -> Program:
        log = data / "logs" / f"{name}.log"
        return Program(name, command, folder=_CHECKOUT, log=log, environ=environ, keep=keep)

    def ready(_: ChildProcess) -> bool:
        beat.must_run()
        return commands.answers(environ["VALETKEY_BROKER_URL"])

    with (
        running(program("beat", commands.beat), lambda _: True, grace=20) as beat,
        running(program("worker", commands.worker), ready, grace=20) as worker,
    ):
        yield {"worker": worker, "beat": beat}
