"""Starts workers."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from threading import Event, Thread

import click

from worker.broker.queues import QUEUES_BY_ROLE
from worker.broker.sharing.fair_queue import FairQueue
from worker.commands.health.services import check_services
from worker.logs import configure_logging
from worker.settings import Settings
from worker.supervisor import Supervisor, WorkerProcess

# These are off, as workers need nothing from each other: each long-lived pub/sub
# connection is one more that can become half-open.
_WORKER_OPTIONS = ("worker", "--without-gossip", "--without-heartbeat", "--without-mingle")
# Upkeep waits for endpoints and storage. Its jobs share one process, which bounds what they do at
# once; issuing needs the CPU, so it has a process for each request.
_ROLE_OPTIONS = {"upkeep": ("--pool", "threads", "--concurrency", "8")}
_FAIR_QUEUE_STOP_TIMEOUT = 1.0  # seconds; what it has not moved stays where it is
_LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@click.command()
@click.option(
    "--only",
    type=click.Choice(list(QUEUES_BY_ROLE)),
    help="Only process requests (issue: all, interactive: small batches, bulk: large batches), or "
    "only send webhooks, write manifests and release expired grants (upkeep). Without it, run one "
    "worker for requests and one for the rest.",
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
    settings = Settings()  # invalid ones end this process before it starts any other
    configure_logging(logging.getLevelNamesMapping()[loglevel])
    check_services()
    roles = [only] if only else ["issue", "upkeep"]
    with nullcontext() if only == "upkeep" else _fair_queue(settings):
        exit_code = Supervisor(list(_workers(roles, loglevel))).run()
    sys.exit(exit_code)


@contextmanager
def _fair_queue(settings: Settings) -> Iterator[None]:
    """Share the issuing workers among tenants while the block runs."""
    stop = Event()
    fair_queue = FairQueue(settings.broker_url.get_secret_value())
    thread = Thread(target=fair_queue.run, args=(stop,), name="fair-queue", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(_FAIR_QUEUE_STOP_TIMEOUT)


def _workers(roles: list[str], loglevel: str) -> Iterator[WorkerProcess]:
    # SIGTERM then stops softly: running tasks may end, and prefetched messages return to the queue.
    environ = dict(os.environ) | {"REMAP_SIGTERM": "SIGQUIT"}
    for role in roles:
        command = [sys.executable, "-m", "celery", "-A", "worker.app", *_WORKER_OPTIONS]
        command += ["--loglevel", loglevel, "--queues", ",".join(QUEUES_BY_ROLE[role])]
        command += ["--hostname", f"{role}@%h", *_ROLE_OPTIONS.get(role, ("--pool", "prefork"))]
        yield WorkerProcess(role, command, environ)
