"""Starts a worker."""

import os
import sys

import click

from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE
from worker.commands.health_checks import UPKEEP_QUEUE

# Gossip and mingle are off, as workers need nothing from each other: each long-lived pub/sub
# connection is one more that can become half-open.
_WORKER_OPTIONS = ("worker", "--without-gossip", "--without-mingle")
# Upkeep waits for endpoints and storage. Its jobs share one process, which bounds what they do at
# once; issuing needs the CPU, so it has a process for each request.
_POOLS = {"upkeep": ("--pool", "threads", "--concurrency", "8")}
_DEFAULT_POOL = ("--pool", "prefork")
QUEUES = {
    "all": (INTERACTIVE_QUEUE, UPKEEP_QUEUE, BULK_QUEUE),
    "issue": (INTERACTIVE_QUEUE, BULK_QUEUE),
    "interactive": (INTERACTIVE_QUEUE,),
    "bulk": (BULK_QUEUE,),
    "upkeep": (UPKEEP_QUEUE,),
}


@click.command()
@click.option(
    "--only",
    type=click.Choice(["issue", "interactive", "bulk", "upkeep"]),
    help="Only process requests (issue: all, interactive: small batches, bulk: large batches), or "
    "only send webhooks, write manifests and release expired grants (upkeep). In production, run "
    "issue and upkeep as separate processes, so that upkeep uses no CPU of those that issue.",
)
@click.option(
    "--loglevel",
    default="INFO",
    show_default=True,
    help="Minimum level of messages to log on stderr.",
)
def run(only: str | None, loglevel: str) -> None:
    """Start a worker, with beat unless it only processes requests.

    \b
    Example:
      python -m worker run
    """
    role = only or "all"
    command = [sys.executable, "-m", "celery", "-A", "worker.app", *_WORKER_OPTIONS]
    command += _POOLS.get(role, _DEFAULT_POOL)
    command += ["--loglevel", loglevel, "--queues", ",".join(QUEUES[role])]
    command += ["--hostname", f"{role}@%h"]
    if role in {"all", "upkeep"}:
        command += ["--beat"]
    # SIGTERM then stops softly: running tasks may end, and prefetched messages return to the queue.
    os.environ["REMAP_SIGTERM"] = "SIGQUIT"
    os.execv(sys.executable, command)  # noqa: S606 - this process becomes the worker
