from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.builders import services
from tests.support.builders.messages import POLICY, Clock, multipart_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.fakes.http_storage import StorageResponse
from tests.support.s3.unreliable_storage import UnreliableStorage, fail_at, unreliable_storage
from worker.aws.s3_clients import S3Clients, SilentBuckets
from worker.dev.embedded_servers import Storage, create_buckets
from worker.errors import Transient
from worker.features import resolve
from worker.rules.tenant_config import Bucket, Quota, TenantConfig

BUCKET = "starts"
KEYS = tuple(f"acme/film-{number}.mp4" for number in range(5))
SIZE = 1_000
DENIED = StorageResponse(403, body=b"<Error><Code>AccessDenied</Code></Error>")

# For claims about storage. Those about the SQL of attempts and cleanups run on each database.
ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


_s3_clients = cache(S3Clients)  # creating a client takes longer than most calls


class UploadService(InProcessService):
    """The service in front of a storage whose owner can look into it."""

    def __init__(
        self, engine: Engine, s3: S3Clients, clock: Clock, storage: UnreliableStorage, owner: Any
    ) -> None:
        super().__init__(services.build_context(engine, s3, clock))
        self.clock = clock
        self.storage = storage
        self.owner = owner

    def fail_start(
        self, number: int, response: StorageResponse, error: type[Transient] = Transient
    ) -> None:
        """Issue a message whose upload with this number, from 1, gets a response; then pass on."""
        self.storage.interfere = fail_at(number, response)
        with pytest.raises(error):
            self.issue(five_uploads())
        self.storage.interfere = lambda _, forward: forward()

    def unfinished(self) -> int:
        return len(listed(self.owner))

    def clean_up(self) -> dict[str, int]:
        """Run the cleanup when all of its delays are over, and before grants expire."""
        self.clock.forward(minutes=6)
        abort = resolve("aborts.multipart_aborts:abort_expired_uploads")
        counts: dict[str, int] = abort(self.context)
        return counts


@pytest.fixture(scope="module")
def owner(seaweed: Storage) -> Iterator[Any]:
    """A boto3 client of the bucket's owner, which reaches storage without a proxy."""
    client = seaweed.client()
    create_buckets(client, {BUCKET})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", seaweed.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", seaweed.secret_key)
        yield client
    client.close()


@pytest.fixture(scope="module")
def proxy(seaweed: Storage) -> Iterator[UnreliableStorage]:
    with unreliable_storage(seaweed.endpoint) as proxy:
        yield proxy


@pytest.fixture
def service(
    engine: Engine, clock: Clock, proxy: UnreliableStorage, owner: Any
) -> Iterator[UploadService]:
    """The service in front of a storage without uploads."""
    clock.time = datetime.now(UTC)
    s3 = _s3_clients(proxy.url)
    s3.silent_buckets = SilentBuckets()  # as in a process of its own
    service = UploadService(engine, s3, clock, proxy, owner)
    service.apply(config())
    yield service
    proxy.reset()
    for upload in listed(owner):
        owner.abort_multipart_upload(Bucket=BUCKET, **upload)


def listed(owner: Any) -> list[dict[str, str]]:
    uploads = owner.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
    return [{name: upload[name] for name in ("Key", "UploadId")} for upload in uploads]


def config(*quotas: Quota, bucket: str = BUCKET) -> TenantConfig:
    policies = {"demo": replace(POLICY, max_size=2 * 10**7)}
    return TenantConfig(
        {"demo": Bucket("demo", bucket, "us-east-1", "path")},
        tenant_config(*quotas, policies=policies).tenants,
    )


def five_uploads(**changes: Any) -> dict[str, Any]:
    """Return a request for an upload of each of KEYS."""
    return multipart_message(KEYS, SIZE, **changes)
