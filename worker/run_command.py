"""`run`: starts workers.

They import their modules while this process imports its own, and checks the services.
"""

import logging
import os
import sys

import click

from worker.broker.queues import EVENTS_ROLE, QUEUES_BY_ROLE
from worker.logs import configure_logging
from worker.settings import Settings
from worker.supervisor import WorkerProcess

_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@click.command()
@click.option(
    "--only",
    type=click.Choice([*QUEUES_BY_ROLE, EVENTS_ROLE]),
    help="Only process requests (issue: all, interactive: small batches, bulk: large batches), "
    "only send webhooks, write manifests and release expired grants (upkeep), or only read event "
    "notifications of storage (events). Without it, run one worker for requests, one for webhooks "
    "and the like, and one for events once a bucket profile names a queue.",
)
@click.option(
    "--loglevel",
    type=click.Choice(_LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    help="Minimum level of messages to log on stderr.",
)
def run(only: str | None, loglevel: str) -> None:
    """Run workers until SIGTERM or Ctrl-C, and restart one that ends by itself.

    \b
    Example:
      python -m worker run
    """
    Settings()  # invalid ones end this process before it starts any other
    configure_logging(logging.getLevelNamesMapping()[loglevel])
    workers = [_worker(role, loglevel) for role in ([only] if only else ["issue", "upkeep"])]
    try:
        for worker in workers:
            worker.start()
        from worker.run import supervise  # noqa: PLC0415 - meanwhile, the workers load theirs

        sys.exit(supervise(workers, only, _worker(EVENTS_ROLE, loglevel)))
    finally:
        for worker in workers:
            worker.kill()


def _worker(role: str, loglevel: str) -> WorkerProcess:
    if role == EVENTS_ROLE:
        command = [sys.executable, "-m", "worker.event_intake", loglevel]
        return WorkerProcess(role, command, os.environ)
    # SIGTERM then stops softly: running tasks may end, and prefetched messages return to the queue.
    environ = dict(os.environ) | {"REMAP_SIGTERM": "SIGQUIT"}
    command = [sys.executable, "-m", "worker.celery_worker", role, loglevel]
    return WorkerProcess(role, command, environ)
