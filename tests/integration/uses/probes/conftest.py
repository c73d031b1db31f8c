from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.builders import services
from tests.support.builders.messages import POLICY, Clock, tenant_config
from tests.support.s3.unreliable_storage import UnreliableStorage, unreliable_storage
from tests.support.uses.use_service import UploadService
from valetkey.wire.replies import Grant, UseStates
from worker.aborts.multipart_aborts import abort_expired_uploads
from worker.aws.s3_clients import S3Clients
from worker.dev.embedded_servers import Storage, create_buckets
from worker.issue.cleanup import clean_up
from worker.rules.tenant_config import Bucket, TenantConfig
from worker.uses.settlement import settle_ended_slots
from worker.uses.use_reports import GRACE

BUCKET = "probes"
TEN = b"1234567890"


class Slots(UploadService):
    """Upload slots of a service that reaches real storage through a proxy."""

    storage: UnreliableStorage

    def ask(self, grant: Grant, *items: int, tenant: str = "acme", probe: bool = True) -> UseStates:
        """Ask for the states of a grant's batch, or of its items."""
        batch = grant.id.partition(".")[0]
        message = {"v": 1, "ask": "status", "tenant": tenant, "batch": batch, "probe": probe}
        reply = self.issue(message | ({"items": list(items)} if items else {}))
        return UseStates.model_validate(reply)

    def end(self) -> None:
        """Let all grants end, and wait until their slots are due."""
        self.clock.forward(minutes=5)
        clean_up(self.context)
        self.clock.time += GRACE

    def settle(self) -> dict[str, int]:
        return settle_ended_slots(self.context)

    def end_and_settle(self) -> dict[str, int]:
        """Let all grants end, abort their uploads, and settle their slots."""
        self.clock.forward(minutes=5)
        clean_up(self.context)
        abort_expired_uploads(self.context)
        self.clock.time += GRACE
        abort_expired_uploads(self.context)  # the second look at aborted uploads
        return self.settle()

    def asked_keys(self) -> list[str]:
        """Return the keys that storage was asked for, without the tenant's prefix."""
        heads = self.storage.server.requests("HEAD")
        return [request.target.removeprefix(f"/{BUCKET}/acme/") for request in heads]


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


@pytest.fixture(scope="module")
def s3(proxy: UnreliableStorage) -> S3Clients:
    """The clients of all services: making one takes longer than most calls."""
    return S3Clients(proxy.url)


@pytest.fixture
def slots(
    engine: Engine, s3: S3Clients, clock: Clock, proxy: UnreliableStorage, owner: Any
) -> Iterator[Slots]:
    """Upload slots in storage without objects, at the time that storage has."""
    now = datetime.now(UTC)
    clock.time = now - timedelta(days=7)  # a slot of the moment of its profile may be older
    slots = Slots(services.build_context(engine, s3, clock), clock, owner)
    slots.apply(config())
    clock.time = now
    slots.storage = proxy
    yield slots
    proxy.reset()
    for page in owner.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for item in page.get("Contents", ()):
            owner.delete_object(Bucket=BUCKET, Key=item["Key"])


def config(*, other: dict[str, Any] | None = None, **changes: Any) -> TenantConfig:
    """Return a config with changes of its tenant; other are those of a second bucket profile."""
    policies = {"demo": replace(POLICY, overwrite=True, free_names=True)}
    buckets = {"demo": Bucket("demo", BUCKET, "us-east-1", "path", probe_rate=10_000)}
    if other is not None:
        policies["other"] = replace(policies["demo"], bucket="other")
        buckets["other"] = replace(buckets["demo"], name="other", **other)
    tenants = tenant_config(**{"max_batch": 1_000, "policies": policies} | changes).tenants
    return TenantConfig(buckets, tenants)


def demo(**changes: Any) -> TenantConfig:
    loaded = config()
    return TenantConfig({"demo": replace(loaded.buckets["demo"], **changes)}, loaded.tenants)
