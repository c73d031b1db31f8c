"""Settles slots in processes that are killed, each at another statement. Run as a module.

The arguments are the endpoint of storage, the time, the stride, and URLs of databases that are
copies of each other, all with the same due slots. A process that settles the first one is not
killed; the number of its statements is written to stdout. In each other database one is killed:
in the first of them before its first statement, in the next ones each stride statements later.
"""

import os
import signal
import sys
from collections import Counter
from datetime import datetime
from typing import Any

from sqlalchemy import event

from tests.support.builders.services import build_context
from tests.support.fakes.statements import before_statements
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine, read_transaction
from worker.ledger.tenant_rows import load_config
from worker.uses.settlement import settle_ended_slots


def settle(url: str, s3: S3Clients, now: datetime, killed_at: int) -> int:
    """Settle in this process, and return the number of statements and commits.

    The process is killed before the one with the number killed_at.
    """
    engine = create_database_engine(url)
    counts = Counter[str]()

    def kill(*_: Any) -> None:
        counts["statements"] += 1
        if counts["statements"] == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "commit", kill)
    with before_statements(engine, kill):
        settle_ended_slots(build_context(engine, s3, lambda: now))
    return counts["statements"]


def main(endpoint: str, moment: str, stride: str, counted: str, *urls: str) -> None:
    """Settle the first database, and kill a process in each other one."""
    now, s3 = datetime.fromisoformat(moment), S3Clients(endpoint)
    with read_transaction(create_database_engine(counted)) as connection:
        access = load_config(connection).find_access("acme", "demo")
    assert access is not None
    # Made once: that takes longer than the rest.
    s3.client(access.bucket, access.tenant.name, access.policy.prefixes, now)
    for index, url in enumerate(urls):
        child = os.fork()
        if child == 0:
            settle(url, s3, now, 1 + index * int(stride))
            os._exit(0)
        if os.WTERMSIG(os.waitpid(child, 0)[1]) != signal.SIGKILL:
            raise SystemExit("a process ended before it was killed")
    sys.stdout.write(str(settle(counted, s3, now, 0)))


if __name__ == "__main__":
    main(*sys.argv[1:])
