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
from worker.embedded.processes import PRIVATE, Child, NotStarted, Program, started

_CHECKOUT = Path(worker.__file__).parents[1]
_PYTHON = (sys.executable, "-m")
# A developer's own credentials must never sign for a toy storage, and Celery prefers its variables
# to what it is told.
_KEPT_OUT = ("AWS_", "CELERY_")


def answers(broker_url: str) -> bool:
    """Tell whether a worker answers on this broker."""
    with Celery(config_source="celeryconfig", set_as_current=False) as app:
        # A developer's CELERY_BROKER_URL would win against broker_url.
        app.conf.update(broker_read_url=broker_url, broker_write_url=broker_url)
        return bool(app.control.ping(timeout=0.5, limit=1))


@dataclass(frozen=True, slots=True)
class Commands:
    """What the stack runs of the service, and how it learns that a worker is up."""

    migrate: tuple[str, ...] = (*_PYTHON, "worker", "migrate")
    apply: tuple[str, ...] = (*_PYTHON, "worker", "apply", "--yes")
    worker: tuple[str, ...] = (*_PYTHON, "worker", "run")
    answers: Callable[[str], bool] = answers


def environment(environ: Mapping[str, str], **given: str) -> dict[str, str]:
    """Give the service's environment: what is given, and of the rest what cannot mislead it."""
    kept = {name: value for name, value in environ.items() if not name.startswith(_KEPT_OUT)}
    nowhere = {
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return kept | nowhere | given


def finish(command: tuple[str, ...], environ: Mapping[str, str]) -> None:
    """Run one of the service's commands to its end. Raises NotStarted with what it said."""
    done = subprocess.run(
        command,
        cwd=_CHECKOUT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        umask=PRIVATE,
    )
    if done.returncode:
        said = (done.stderr or done.stdout).strip()
        raise NotStarted(f"`{' '.join(command)}` failed:\n{said}")


@contextmanager
def working(
    commands: Commands, data: Path, environ: Mapping[str, str], keep: tuple[int, ...]
) -> Iterator[Child]:
    """Run the worker, with beat. Stopping it lets what runs end, within Celery's own bound."""
    program = Program(
        name="worker",
        command=commands.worker,
        folder=_CHECKOUT,
        log=data / "logs" / "worker.log",
        environ=environ,
        keep=keep,
    )
    broker_url = environ["VALETKEY_BROKER_URL"]
    with started(program, lambda _: commands.answers(broker_url), grace=15) as child:
        yield child
