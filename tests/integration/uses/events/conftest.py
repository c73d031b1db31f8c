from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from threading import Event, Thread
from typing import Any

import boto3
import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.messages import POLICY, Clock, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.uses.notifications import TestQueue
from tests.support.uses.uploading import Uploader
from worker.aws.clients import S3Clients
from worker.aws.event_queues import EventQueue
from worker.context import Context
from worker.core.tenants.config import Bucket, TenantConfig
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage
from worker.usecases.uses.intake.queue_reader import QueueReader
from worker.usecases.uses.intake.targets import queue_targets

BUCKET = "events"


@pytest.fixture(scope="module")
def storage(ministack: Storage) -> Iterator[Storage]:
    """Storage that sends notifications, and the keys of the service for it."""
    create_buckets(ministack.client(), {BUCKET})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ministack.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", ministack.secret_key)
        patch.setattr("worker.usecases.uses.intake.queue_reader.WAIT_SECONDS", 1)
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


@pytest.fixture(scope="module")
def s3(storage: Storage) -> S3Clients:
    """The clients of all services: making one takes longer than most calls."""
    return S3Clients(storage.endpoint)


@pytest.fixture
def service(
    engine: Engine, s3: S3Clients, clock: Clock, apply_config: ApplyConfig, queue: TestQueue
) -> InProcessService:
    """The service in front of real storage, at the time that storage has."""
    clock.time = datetime.now(UTC)
    apply_config(config(queue.url))
    return services.build_service(engine, s3, clock)


@pytest.fixture
def uploader(service: InProcessService) -> Uploader:
    return Uploader(service)


def config(queue_url: str, **changes: Any) -> TenantConfig:
    """Return a config with one bucket profile; changes are those of the profile."""
    policies = {"demo": replace(POLICY, overwrite=True, free_names=True)}
    bucket = Bucket("demo", BUCKET, "us-east-1", "path", events_queue=queue_url)
    return TenantConfig(
        {"demo": replace(bucket, **changes)}, tenant_config(policies=policies).tenants
    )


@contextmanager
def reading(queue: TestQueue, context: Context) -> Iterator[QueueReader]:
    """Read a queue while the block runs."""
    config = context.config.current()
    profile = next(iter(config.buckets.values()))
    sqs, stop = EventQueue(queue.url, profile), Event()

    def targets() -> Any:
        return queue_targets(queue.url, context.config.current(), context)

    with ThreadPoolExecutor(4) as threads:
        reader = QueueReader(sqs, targets, context, threads)
        thread = Thread(target=reader.run, args=(stop,))
        thread.start()
        try:
            yield reader
        finally:
            stop.set()
            thread.join()
            sqs.close()
