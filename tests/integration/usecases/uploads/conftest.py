from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Usage
from tests.integration.conftest import ApplyConfig
from tests.support.builders import services
from tests.support.builders.messages import POLICY, Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.s3.unreliable_storage import (
    UnreliableStorage,
    unreliable_storage,
)
from worker.aws.clients import S3Clients
from worker.aws.silent_buckets import SilentBuckets
from worker.core.tenants.config import Bucket, Quota, TenantConfig
from worker.db.engine import read_transaction
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage
from worker.usecases.upkeep.abort_uploads import abort_expired

BUCKET = "starts"
KEYS = tuple(f"acme/film-{number}.mp4" for number in range(5))
SIZE = 1_000

# For claims about storage. Those about the SQL of attempts and cleanups run on each database.
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


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


@pytest.fixture(autouse=True)
def storage(proxy: UnreliableStorage, owner: Any) -> Iterator[UnreliableStorage]:
    """The proxy in front of a storage without uploads."""
    yield proxy
    proxy.reset()
    for upload in listed(owner):
        owner.abort_multipart_upload(Bucket=BUCKET, **upload)


@pytest.fixture
def service(
    engine: Engine, s3: S3Clients, clock: Clock, apply_config: ApplyConfig
) -> InProcessService:
    clock.time = datetime.now(UTC)
    s3.silent_buckets = SilentBuckets()  # as in a process of its own
    apply_config(config())
    return services.build_service(engine, s3, clock)


@pytest.fixture
def unfinished(owner: Any) -> Callable[[], int]:
    """A function that counts the unfinished uploads in storage."""
    return lambda: len(listed(owner))


def listed(owner: Any) -> list[dict[str, str]]:
    uploads = owner.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [{name: upload[name] for name in ("Key", "UploadId")} for upload in uploads]


def config(*quotas: Quota, bucket: str = BUCKET) -> TenantConfig:
    policies = {"demo": replace(POLICY, max_size=SIZE)}
    return TenantConfig(
        {"demo": Bucket("demo", bucket, "us-east-1", "path")},
        tenant_config(*quotas, max_batch=100, policies=policies).tenants,
    )


def multipart_message(**changes: Any) -> dict[str, Any]:
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": SIZE}
    message = grant_message(KEYS, grant=terms | changes)
    return message | {"items": [{"key": key, "size": SIZE} for key in KEYS]}


def rows(engine: Engine, table: Any) -> list[Any]:
    with read_transaction(engine) as connection:
        return list(connection.execute(select(table)))


def charged(engine: Engine) -> int:
    with read_transaction(engine) as connection:
        query = select(Usage.upload_bytes).where(Usage.window == "day")
        return connection.execute(query).scalar() or 0


def clean_up(service: InProcessService, clock: Clock) -> dict[str, int]:
    """Run the cleanup when all of its delays are over, and before grants expire."""
    clock.forward(minutes=6)
    return abort_expired(service.context)
