"""The process of a Celery worker, which `worker run` starts and supervises.

It starts without Celery's command line, whose other commands take 8 MB in each process.
"""

import logging
import socket
import sys
from typing import Any

from worker.app import app
from worker.broker.queues import QUEUES_BY_ROLE
from worker.logs import configure_logging, log_all_output

# Upkeep waits for endpoints and storage. Its jobs share one process, which bounds what they do at
# once; issuing needs the CPU, so it has a process for each request.
_ROLE_OPTIONS: dict[str, dict[str, Any]] = {"upkeep": {"pool_cls": "threads", "concurrency": 8}}
_DEFAULT_OPTIONS = {"pool_cls": "prefork"}


def main(role: str, level: str) -> int:
    """Run a worker until SIGTERM; return its exit code."""
    configure_logging(logging.getLevelNamesMapping()[level])
    log_all_output()
    worker = app.Worker(
        quiet=True,  # no banner
        hostname=f"{role}@{socket.gethostname()}",
        loglevel=level,
        queues=QUEUES_BY_ROLE[role],
        # Workers need nothing from each other: each long-lived pub/sub connection is one more that
        # can become half-open.
        without_gossip=True,
        without_heartbeat=True,
        without_mingle=True,
        **_ROLE_OPTIONS.get(role, _DEFAULT_OPTIONS),
    )
    worker.start()
    exit_code: int = worker.exitcode
    return exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
