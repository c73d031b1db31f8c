"""Sends webhooks in processes that are killed, each at another step. Run as a module.

The arguments are the time, the stride, and URLs of databases that are copies of each other, all
with the same due webhooks. The process of the first one is killed before its first step, the next
ones each stride steps later. Steps are statements, commits, and both ends of each POST; how many
there are depends on what happens at the same time. The number of killed processes is written to
stdout. Each process appends the position of its database to the URLs of endpoints.
"""

import os
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from itertools import count
from typing import Any

from sqlalchemy import event

from tests.support.builders.delivery_service import SECRET
from tests.support.builders.services import build_context
from tests.support.fakes.statements import before_statements
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine
from worker.context import Context
from worker.webhooks.webhook_client import WebhookClient, webhook_client
from worker.webhooks.webhook_connection import WebhookResponse
from worker.webhooks.webhook_delivery import deliver_due


class MarkedClient(WebhookClient):
    """A client that appends a mark to URLs, and calls a function before and after each POST."""

    def __init__(self, mark: str, step: Callable[[], None]) -> None:
        super().__init__(development=True)
        self._mark = mark
        self._step = step

    def post(self, url: str, *args: Any) -> WebhookResponse:
        self._step()
        response = super().post(url + self._mark, *args)
        self._step()
        return response


def marked_context(context: Context, mark: str, step: Callable[[], None]) -> Context:
    """Return a context whose webhooks go through a MarkedClient."""
    created: dict[Callable[[], Any], Any] = {webhook_client: MarkedClient(mark, step)}
    return build_context(
        context.engine,
        context.s3,
        context.now,
        created=created,
        environ={"HOOK": SECRET},
    )


def deliver(url: str, now: datetime, mark: str, killed_at: int) -> None:
    """Deliver in this process, which is killed before the step with the number killed_at."""
    engine = create_database_engine(url)
    steps = count(1)

    def step(*_: Any) -> None:
        if next(steps) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "commit", step)
    context = marked_context(build_context(engine, S3Clients(), lambda: now), mark, step)
    with before_statements(engine, step):
        deliver_due(context)


def main(moment: str, stride: str, *urls: str) -> None:
    """Kill a process that delivers the webhooks of each database."""
    now, killed = datetime.fromisoformat(moment), 0
    for index, url in enumerate(urls):
        child = os.fork()
        if child == 0:
            deliver(url, now, str(index), 1 + index * int(stride))
            os._exit(0)
        killed += os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    sys.stdout.write(str(killed))


if __name__ == "__main__":
    main(*sys.argv[1:])
