"""A service that writes manifests to a real storage, and what comes of it."""

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
from valetkey.wire.states import ManifestState
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Bucket, Policy, TenantConfig
from worker.db import manifests, tenants
from worker.db.engine import read_transaction, write_transaction
from worker.db.ledger import Ledger
from worker.db.manifests import LEASE_TIME, ManifestQueue
from worker.devstack.s3 import create_buckets
from worker.devstack.storage import Storage
from worker.usecases.manifest import ManifestWriter

BUCKET = "manifests"
KEYS = ("acme/a", "acme/../b", "acme/ü c", "outside", "acme/e")
NO_JITTER = 0.5  # the middle of the spread


_s3 = cache(S3Clients)  # to make a client takes as long as all else in a test


@cache
def _files(storage: Storage) -> Any:
    client = storage.client()
    create_buckets(client, {BUCKET})
    return client


def chunks(size: int = 2, **changes: Any) -> list[dict[str, Any]]:
    """A batch in chunks; its manifest has a key of its own."""
    id_ = batch_id()
    header = {"batch": id_, "manifest": f"acme/{id_}.jsonl.gz", "total": len(KEYS)}
    header |= {"chunk_size": size} | changes
    starts = enumerate(range(0, len(KEYS), size))
    return [grant_message(KEYS[at : at + size], **header, chunk=number) for number, at in starts]


class ManifestService:
    """The service over one database; its clock begins at the real time, as storage looks at it."""

    def __init__(
        self, engine: Engine, storage: Storage, clock: Clock, patch: pytest.MonkeyPatch
    ) -> None:
        patch.setenv("AWS_ACCESS_KEY_ID", storage.access_key)
        patch.setenv("AWS_SECRET_ACCESS_KEY", storage.secret_key)
        clock.time = datetime.now(UTC)
        leases = iter(range(1_000))
        self.engine = engine
        self.clock = clock
        self.files = _files(storage)
        self.leases = ManifestQueue(engine, lambda: str(next(leases)))
        self._s3 = _s3(storage.endpoint)
        self.service = services.build_service(engine, self._s3, clock)
        self.declare(POLICY)

    def declare(self, policy: Policy, bucket: str = BUCKET) -> None:
        """Let acme, and a twin of it, have what the policy says in a real bucket."""
        acme = tenant_config(policies={"demo": policy}).tenants["acme"]
        both = {"acme": acme, "twin": replace(acme, name="twin")}
        known = TenantConfig({"demo": Bucket("demo", bucket, "us-east-1", "path")}, both)
        with write_transaction(self.engine) as connection:
            tenants.store_config(connection, tenants.load_config(connection), known)

    def issue(self, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [self.service.issue(one) for one in asked]

    def twins(self, asked: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """What the twin is answered, who asks for the same without a manifest."""
        without = [{k: v for k, v in one.items() if k != "manifest"} for one in asked]
        outcomes = self.issue([{**one, "tenant": "twin"} for one in without])
        return [item for one in outcomes for item in one["items"]]

    def write(self, **others: Any) -> tuple[int, int]:
        """Write what is due, with parts of the writer replaced; count it, and what failed."""
        parts: dict[str, Any] = {
            "manifests": self.leases,
            "ledger": Ledger(self.engine),
            "reissuer": services.build_reissuer(self.engine, self._s3, self.clock),
            "s3": self._s3,
            "now": self.clock,
            "jitter": lambda: NO_JITTER,
        }
        counts = ManifestWriter(**parts | others).write_due()
        return counts["written"], counts["unwritten"]

    def pass_by(self, time: timedelta = LEASE_TIME) -> None:
        """Move the clock on; by default until a lease has run out."""
        self.clock.forward(seconds=time / timedelta(seconds=1))

    @property
    def state(self) -> ManifestState:
        """What is told of the only manifest."""
        with read_transaction(self.engine) as connection:
            (number,) = connection.scalars(select(Manifest.batch))
            found = manifests.read_manifest_state(connection, number)
        assert found is not None
        return found

    def stored(self, key: str) -> bytes:
        found = self.files.get_object(Bucket=BUCKET, Key=key)
        assert found["ContentType"] == "application/gzip"
        content: bytes = found["Body"].read()
        return content

    def lines(self, key: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in gzip.decompress(self.stored(key)).splitlines()]
