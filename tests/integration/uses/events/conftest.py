from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from threading import Event, Thread
from typing import Any

import boto3
import pytest
from sqlalchemy import Engine

from tests.support.builders.messages import POLICY, Clock, put_message, tenant_config
from tests.support.builders.services import build_context
from tests.support.uses.notifications import TestQueue, aws_record, body, minio_record
from tests.support.uses.use_service import UploadService
from worker.aws.s3_clients import S3Clients
from worker.dev.embedded_servers import Storage, create_buckets
from worker.rules.tenant_config import Bucket, TenantConfig
from worker.uses.events.event_messages import MessageGroup, queue_targets
from worker.uses.events.event_queues import EventQueue, QueueMessage
from worker.uses.events.queue_readers import QueueReader

BUCKET = "events"
KEY = "acme/a.png"


class Intake(UploadService):
    """A service in front of real storage, whose only bucket profile names a queue."""

    queue_url: str
    threads: ThreadPoolExecutor

    def put_grant(self, key: str = KEY, bucket: str = "demo") -> str:
        """Return the id of a grant to put 10 bytes."""
        return self.ids(put_message({key: 10}, bucket=bucket, overwrite=True))[0]

    def stored(self, grant_id: str | None, key: str = KEY, **fields: Any) -> Any:
        """Return an event that names the grant of an object that is stored now."""
        return in_bucket(minio_record(key, self.clock(), grant_id, **fields))

    def unnamed(self, key: str, **fields: Any) -> Any:
        """Return an event that names no grant."""
        return in_bucket(aws_record(key, self.clock(), **fields))

    def deleted(self, key: str = KEY, seconds: float = 0, **fields: Any) -> Any:
        """Return an event of a deletion, so many seconds from now."""
        at = self.clock() + timedelta(seconds=seconds)
        return in_bucket(aws_record(key, at, "ObjectRemoved:Delete", **fields))

    def handle(
        self,
        *messages: Any,
        waiting: timedelta = timedelta(0),
        away: timedelta = timedelta(0),
        storage_is_away: bool = False,
    ) -> MessageGroup:
        """Handle messages together, as SQS hands them over: texts, or records with a message each.

        They were sent a while ago, while the service was away.
        """
        context = self.context
        if storage_is_away:
            context = build_context(self.engine, S3Clients("http://127.0.0.1:9"), self.clock)
        sent_at = self.clock() - waiting
        texts = [each if isinstance(each, str) else body(each) for each in messages]
        received = [QueueMessage(str(n), "", text, sent_at=sent_at) for n, text in enumerate(texts)]
        targets = queue_targets(self.queue_url, context.config.current(), context)
        group = MessageGroup(received, targets, context, self.threads, sent_at + away)
        group.handle()
        return group

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read the queue while the block runs."""
        stop = Event()
        sqs = EventQueue(self.queue_url, self.context.config.current().buckets["demo"])
        reader = QueueReader(self.queue_url, sqs, self.context, self.threads)
        thread = Thread(target=reader.run, args=(stop,))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            sqs.close()


def in_bucket(record: Any, bucket: str = BUCKET) -> Any:
    record["s3"]["bucket"]["name"] = bucket
    return record


@pytest.fixture(scope="module")
def storage(ministack: Storage) -> Iterator[Storage]:
    """Storage that sends notifications, and the keys of the service for it."""
    create_buckets(ministack.client(), {BUCKET})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
        patch.setattr("worker.uses.events.queue_readers.WAIT_SECONDS", 1)
        yield ministack


@pytest.fixture(scope="module")
def sqs(storage: Storage) -> Iterator[Any]:
    client = boto3.client("sqs", "us-east-1", endpoint_url=storage.endpoint)
    yield client
    client.close()


@pytest.fixture
def queue(sqs: Any) -> Iterator[TestQueue]:
    queue = TestQueue(sqs)
    yield queue
    sqs.delete_queue(QueueUrl=queue.url)


@pytest.fixture
def queue_url(queue: TestQueue) -> str:
    return queue.url


@pytest.fixture(scope="module")
def s3(storage: Storage) -> S3Clients:
    """The clients of all services: making one takes longer than most calls."""
    return S3Clients(storage.endpoint)


@pytest.fixture(scope="module")
def owner(storage: Storage) -> Iterator[Any]:
    client = storage.client()
    yield client
    client.close()


@pytest.fixture
def intake(
    engine: Engine, s3: S3Clients, clock: Clock, owner: Any, queue_url: str
) -> Iterator[Intake]:
    """An intake at the time that storage has."""
    clock.time = datetime.now(UTC)
    intake = Intake(build_context(engine, s3, clock), clock, owner)
    intake.queue_url = queue_url
    intake.apply(config(queue_url))
    with ThreadPoolExecutor(4) as intake.threads:
        yield intake


def config(queue_url: str, **changes: Any) -> TenantConfig:
    """Return a config with one bucket profile; changes are those of the profile."""
    policies = {"demo": replace(POLICY, overwrite=True, free_names=True)}
    bucket = Bucket("demo", BUCKET, "us-east-1", "path", events_queue=queue_url)
    buckets = {"demo": replace(bucket, **changes)}
    return TenantConfig(buckets, tenant_config(policies=policies).tenants)
