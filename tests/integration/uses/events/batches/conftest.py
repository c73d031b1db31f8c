"""Messages that are handed over as SQS would, together."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from tests.integration.uses.events.conftest import BUCKET
from tests.support.builders.messages import put_message
from tests.support.builders.services import InProcessService
from tests.support.uses.notifications import TestQueue
from worker.aws.event_queues import QueueMessage
from worker.db.engine import read_transaction
from worker.devstack.storage import Storage
from worker.usecases.uses.intake.message_group import HandledMessages, handle_messages
from worker.usecases.uses.intake.targets import queue_targets

Handle = Callable[..., HandledMessages]
QUEUE = "http://127.0.0.1:9/000000000000/events"


@pytest.fixture(scope="module")
def queue() -> TestQueue:
    """A queue that only the config names: messages are handed over."""
    queue = TestQueue.__new__(TestQueue)
    queue.url = QUEUE
    return queue


@pytest.fixture
def handle(service: InProcessService) -> Iterator[Handle]:
    with ThreadPoolExecutor(4) as threads:

        def run(
            *bodies: str,
            waiting: timedelta = timedelta(0),
            away: timedelta = timedelta(0),
            context: Any = service.context,
        ) -> HandledMessages:
            sent_at = context.now() - waiting
            messages = [
                QueueMessage(str(n), "", text, sent_at=sent_at) for n, text in enumerate(bodies)
            ]
            targets = queue_targets(QUEUE, context.config.current(), context)
            return handle_messages(messages, targets, context, threads, sent_at + away)

        yield run


@pytest.fixture(scope="module")
def owner(storage: Storage) -> Iterator[Any]:
    """A boto3 client of the bucket's owner."""
    client = storage.client()
    yield client
    client.close()


def in_bucket(record: Any, bucket: str = BUCKET) -> Any:
    record["s3"]["bucket"]["name"] = bucket
    return record


def rows(engine: Engine, *columns: Any) -> list[tuple[Any, ...]]:
    with read_transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(select(*columns).order_by(*columns))]


def put_grant(service: InProcessService, key: str = "acme/a.png") -> str:
    """Return the id of a grant to put 10 bytes."""
    outcome = service.issue(put_message({key: 10}, overwrite=True))
    grant_id: str = outcome["items"][0]["id"]
    return grant_id
