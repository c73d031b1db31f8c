from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.messages import POLICY, Clock, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.s3.unreliable_storage import UnreliableStorage, unreliable_storage
from tests.support.uses.uploading import Uploader
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Bucket, TenantConfig
from worker.core.uses.settlement import GRACE
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage
from worker.usecases.upkeep.abort_uploads import abort_expired
from worker.usecases.upkeep.cleanup import clean_up
from worker.usecases.uses.settle import settle_ended

BUCKET = "probes"


@pytest.fixture(scope="module")
def real_storage(seaweed: Storage) -> Iterator[Storage]:
    create_buckets(seaweed.client(), {BUCKET})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
        yield seaweed


@pytest.fixture(scope="module")
def owner(real_storage: Storage) -> Iterator[Any]:
    """A boto3 client of the bucket's owner, which reaches storage without a proxy."""
    client = real_storage.client()
    yield client
    client.close()


@pytest.fixture(scope="module")
def proxy(real_storage: Storage) -> Iterator[UnreliableStorage]:
    with unreliable_storage(real_storage.endpoint) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def storage(proxy: UnreliableStorage, owner: Any) -> Iterator[UnreliableStorage]:
    """The proxy in front of a storage without objects."""
    yield proxy
    proxy.reset()
    for page in owner.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", ()):
            owner.delete_object(Bucket=BUCKET, Key=item["Key"])


@pytest.fixture(scope="module")
def s3(proxy: UnreliableStorage) -> S3Clients:
    """The clients of all services: making one takes longer than most calls."""
    return S3Clients(proxy.url)


@pytest.fixture
def service(
    engine: Engine, s3: S3Clients, clock: Clock, apply_config: ApplyConfig
) -> InProcessService:
    """The service in front of real storage, at the time that storage has."""
    clock.time = datetime.now(UTC)
    apply_config(config())
    return services.build_service(engine, s3, clock)


def config(**changes: Any) -> TenantConfig:
    """Return a config with one bucket profile; changes are those of its tenant."""
    policies = {"demo": replace(POLICY, overwrite=True, free_names=True)}
    tenants = tenant_config(**{"max_batch": 1_000, "policies": policies} | changes).tenants
    bucket = Bucket("demo", BUCKET, "us-east-1", "path", probe_rate=10_000)
    return TenantConfig({"demo": bucket}, tenants)


@pytest.fixture
def uploader(service: InProcessService) -> Uploader:
    """Requests grants from the service, and uses them."""
    return Uploader(service)


@pytest.fixture
def settle(service: InProcessService, clock: Clock) -> Callable[[], dict[str, int]]:
    """A function that lets all grants end, and settles them."""

    def run() -> dict[str, int]:
        clock.forward(minutes=5)
        clean_up(service.context)
        abort_expired(service.context)
        clock.time += GRACE
        abort_expired(service.context)  # the second look at aborted uploads
        return settle_ended(service.context)

    return run
