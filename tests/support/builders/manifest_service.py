"""The service in this process, writing manifests to a real storage."""

import gzip
import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Manifest
from tests.support.builders import services
from tests.support.builders.messages import POLICY, Clock, batch_id, grant_message, tenant_config
from valetkey.wire.replies import ManifestState
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import read_transaction, write_transaction
from worker.dev.embedded_servers import Storage, create_buckets
from worker.rules.tenant_config import Bucket, Policy, TenantConfig
from worker.webhooks import outbox
from worker.webhooks.manifest_writer import write_due_manifests
from worker.webhooks.outbox import MANIFEST_LEASE_TIME, ManifestLease

BUCKET = "manifests"
OBJECT_KEYS = ("acme/a", "acme/../b", "acme/ü c", "outside", "acme/e")
NO_JITTER = 0.5  # the middle of the range of retry delays


_s3_clients = cache(S3Clients)  # creating a client takes as long as the rest of a test


@cache
def _storage_client(storage: Storage) -> Any:
    client = storage.client()
    create_buckets(client, {BUCKET})
    return client


def manifest_chunks(size: int = 2, **changes: Any) -> list[dict[str, Any]]:
    """Return the chunks of a batch of OBJECT_KEYS, whose manifest has its own object key."""
    id_ = batch_id()
    header = {"batch": id_, "manifest": f"acme/{id_}.jsonl.gz", "total": len(OBJECT_KEYS)}
    header |= {"chunk_size": size} | changes
    return [
        grant_message(OBJECT_KEYS[start : start + size], **header, chunk=number)
        for number, start in enumerate(range(0, len(OBJECT_KEYS), size))
    ]


class ManifestService:
    """The service over one database; its clock starts at the current time, as storage checks it.

    The tenant acme writes manifests. The tenant twin has the same policy.
    """

    def __init__(
        self, engine: Engine, storage: Storage, clock: Clock, patch: pytest.MonkeyPatch
    ) -> None:
        patch.setenv("AWS_ACCESS_KEY_ID", storage.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", storage.secret_key)
        clock.time = datetime.now(UTC)
        self.engine = engine
        self.clock = clock
        self.storage = _storage_client(storage)
        lease_numbers = iter(range(1_000))
        self.context = services.build_context(
            engine,
            _s3_clients(storage.endpoint),
            clock,
            random=lambda: NO_JITTER,
            new_lease=lambda: str(next(lease_numbers)),
        )
        self.service = services.InProcessService(self.context)
        self.apply_policy(POLICY)

    def apply_policy(self, policy: Policy, bucket: str = BUCKET) -> None:
        """Apply a config in which both tenants have this policy in a real bucket."""
        acme = tenant_config(policies={"demo": policy}).tenants["acme"]
        config = TenantConfig(
            {"demo": Bucket("demo", bucket, "us-east-1", "path")},
            {"acme": acme, "twin": replace(acme, name="twin")},
        )
        self.service.apply(config)

    def issue(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self.service.issue(message) for message in messages]

    def twin_results(self, messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the item results that twin gets for the same messages without a manifest."""
        without = [{k: v for k, v in each.items() if k != "manifest"} for each in messages]
        outcomes = self.issue([message | {"tenant": "twin"} for message in without])
        return [item for outcome in outcomes for item in outcome["items"]]

    def write(self, **changes: Any) -> tuple[int, int]:
        """Write what is due, with changed fields of the context; count written and unwritten."""
        counts = write_due_manifests(replace(self.context, **changes))
        return counts["written"], counts["unwritten"]

    def lease(self) -> ManifestLease | None:
        """Lease the manifest that is due, as another process does."""
        with write_transaction(self.engine) as connection:
            lease = self.context.new_lease()
            return outbox.lease_manifest(connection, "acme", lease, self.clock())

    def wait(self, duration: timedelta = MANIFEST_LEASE_TIME) -> None:
        """Move the clock forward; by default until a lease has expired."""
        self.clock.time += duration

    @property
    def state(self) -> ManifestState:
        """The state of the only manifest."""
        with read_transaction(self.engine) as connection:
            (batch_number,) = connection.scalars(select(Manifest.batch_number))
            state = outbox.read_manifest_state(connection, batch_number)
        assert state is not None
        return state

    def read_object(self, object_key: str) -> bytes:
        response = self.storage.get_object(Bucket=BUCKET, Key=object_key)
        assert response["ContentType"] == "application/gzip"
        content: bytes = response["Body"].read()
        return content

    def read_lines(self, object_key: str) -> list[dict[str, Any]]:
        content = gzip.decompress(self.read_object(object_key))
        return [json.loads(line) for line in content.splitlines()]
