import os
import sys

import click

from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE

# Each long-lived pub/sub socket is one more to go half-open; nothing here needs workers to gossip.
_WORKER = ("worker", "--pool", "prefork", "--without-gossip", "--without-mingle")
QUEUES = {
    "all": (INTERACTIVE_QUEUE, "valetkey.upkeep", BULK_QUEUE),
    "issue": (INTERACTIVE_QUEUE, BULK_QUEUE),
    "interactive": (INTERACTIVE_QUEUE,),
    "bulk": (BULK_QUEUE,),
    "upkeep": ("valetkey.upkeep",),
}


@click.command()
@click.option(
    "--only",
    type=click.Choice(["issue", "interactive", "bulk", "upkeep"]),
    help="Answer requests only (all, or small or large ones), or sweep and send webhooks only. Run "
    "issue and upkeep apart in production, so that a slow endpoint cannot hold up a grant.",
)
@click.option("--loglevel", default="INFO", show_default=True, help="How much to log, to stderr.")
def run(only: str | None, loglevel: str) -> None:
    """Start the worker; with it beat, unless it only answers requests.

    \b
    Example:
      python -m worker run
    """
    role = only or "all"
    command = [sys.executable, "-m", "celery", "-A", "worker.app", *_WORKER]
    command += ["--loglevel", loglevel, "--queues", ",".join(QUEUES[role])]
    command += ["--hostname", f"{role}@%h"]
    if role in {"all", "upkeep"}:
        command += ["--beat"]
    # SIGTERM then stops softly: what runs may end, what is only reserved goes back to the queue.
    os.environ["REMAP_SIGTERM"] = "SIGQUIT"
    os.execv(sys.executable, command)  # noqa: S606 - to become Celery is the point
