"""Twenty tenants in one service, for tests in which each one tries to reach the others' data."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from sqlalchemy import Engine, select

from models import Batch, Chunk, Delivery, Grant, MultipartUpload, Reservation, Usage
from tests.support.builders import services
from tests.support.builders.messages import DEMO, POLICY, Clock, grant_message
from tests.support.crypto.tokens import sign_message, tenant_keys
from valetkey.crypto.keys import PrivateKey, generate_key
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Quota, Tenant, TenantConfig, WebhookEndpoint
from worker.db import tenants
from worker.db.engine import read_transaction, write_transaction

NAMES = [f"t{number}" for number in range(1, 21)]  # t1 is a prefix of t10, but t1/ is not
TERMS: list[dict[str, Any]] = [
    {"kind": "download", "expires_in": 60},
    {"kind": "upload", "expires_in": 60, "max_size": 10},
    {"kind": "put", "expires_in": 60, "max_size": 10},
    {"kind": "multipart", "expires_in": 60, "max_size": 10},
]


@dataclass(frozen=True)
class MatrixTenant:
    """A tenant with its key and its data.

    first_chunks are messages: the first of two chunks of several batches, so that each test can
    try to reach a batch of its own. token is the signed message of the first batch, sealed the
    result as it was sent. upload is the grant id of a multipart upload.
    """

    name: str
    key: PrivateKey
    first_chunks: list[dict[str, Any]]
    token: str
    sealed: str
    upload: str

    @property
    def second_chunk(self) -> dict[str, Any]:
        """The chunk of the first batch that has not arrived."""
        return self.first_chunks[0] | {"chunk": 1, "items": [{"key": f"{self.name}/b"}]}

    @property
    def batch_ids(self) -> list[str]:
        """The ids of its batches."""
        return [message["batch"] for message in self.first_chunks]


class TenantMatrix:
    """A service with all of these tenants; counts the operations that they try on each other."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.clock = Clock()
        self.service = services.build_service(engine, S3Clients(), self.clock)
        self.operations = 0
        keys = {name: generate_key(f"{name}/main") for name in NAMES}
        with write_transaction(engine) as connection:
            tenants.store_config(connection, TenantConfig(), matrix_config(keys), self.clock())
        self.tenants = [self._prepare(key) for key in keys.values()]

    def pairs(self) -> Iterator[tuple[MatrixTenant, MatrixTenant]]:
        """Yield each tenant with every other one."""
        return permutations(self.tenants, 2)

    def send(
        self, sender: MatrixTenant, message: dict[str, Any], key: PrivateKey | None = None
    ) -> dict[str, Any]:
        """Return the response to a message, signed by its sender or with another key."""
        return self.send_raw(sign_message(message, key or sender.key, self.clock()))

    def send_raw(self, raw: Any) -> dict[str, Any]:
        """Return the response to a message as it comes off the queue."""
        self.operations += 1
        return self.service.issue(raw)

    def refusal_code(
        self, sender: MatrixTenant, message: dict[str, Any], key: PrivateKey | None = None
    ) -> str:
        """Return the code with which a message is refused; assert that nothing is issued."""
        outcome = self.send(sender, message, key)
        assert not any("url" in item for item in outcome["items"])
        return str(outcome["refusal"]["code"])

    def rows(self) -> dict[str, list[Any]]:
        """Return the rows of the tenants' data, by table."""
        owned_ids = {
            (tenant.name, batch_id)
            for tenant in self.tenants
            for batch_id in (*tenant.batch_ids, tenant.upload.removesuffix(".0"))
        }
        has_owned_id = Batch.batch_id.in_({batch_id for _, batch_id in owned_ids})
        with read_transaction(self.engine) as connection:
            batches = [
                row
                for row in connection.execute(select(Batch).where(has_owned_id))
                if (row.tenant, row.batch_id) in owned_ids
            ]
            rows: dict[str, list[Any]] = {"batches": batches}
            batch_numbers = [row.batch_number for row in batches]
            for table in (Chunk, Grant, Reservation, MultipartUpload, Delivery):
                query = select(table).where(table.batch_number.in_(batch_numbers))
                rows[str(table.__tablename__)] = list(connection.execute(query))
        return rows

    def used(self) -> dict[str, int]:
        """Return the number of grants charged today, by tenant."""
        with read_transaction(self.engine) as connection:
            rows = connection.execute(select(Usage).where(Usage.window == "day"))
            return {row.tenant: row.grants for row in rows}

    def _prepare(self, key: PrivateKey) -> MatrixTenant:
        name = key.tenant
        messages = [first_chunk(name) for _ in range(4)]
        signed = [sign_message(message, key, self.clock()) for message in messages]
        sealed = [str(self.service.respond(token).sent) for token in signed]
        start = in_bucket(grant_message([f"{name}/film"], tenant=name, grant=TERMS[3]), "common")
        start["items"][0]["size"] = 10
        upload = self.service.issue(sign_message(start, key, self.clock()))
        return MatrixTenant(name, key, messages, signed[0], sealed[0], upload["items"][0]["id"])


def first_chunk(name: str) -> dict[str, Any]:
    """Return the first chunk of a new batch of two items."""
    batch = grant_message([f"{name}/a", f"{name}/b"], chunk_size=1, tenant=name)
    return in_bucket(batch | {"items": batch["items"][:1], "callback": f"hook-{name}"})


def in_bucket(message: dict[str, Any], bucket: str | None = None) -> dict[str, Any]:
    """Return a message for a bucket profile, by default the one of its tenant."""
    return message | {"grant": message["grant"] | {"bucket": bucket or f"of-{message['tenant']}"}}


def matrix_message(tenant: MatrixTenant, **changes: Any) -> dict[str, Any]:
    """Return a request for a download of a tenant in its own bucket profile, with changes."""
    return in_bucket(grant_message([f"{tenant.name}/a"], tenant=tenant.name, **changes))


def matrix_config(keys: dict[str, PrivateKey]) -> TenantConfig:
    """Return a config with a bucket profile for each tenant, and one with a prefix for each."""
    profiles = {f"of-{name}": replace(DEMO, name=f"of-{name}", bucket=name * 2) for name in keys}
    profiles["common"] = replace(DEMO, name="common")
    return TenantConfig(
        profiles, {name: configured_tenant(name, key) for name, key in keys.items()}
    )


def configured_tenant(name: str, key: PrivateKey) -> Tenant:
    """Return a tenant as it is configured."""
    policy = replace(POLICY, prefixes=(f"{name}/",))
    hook = f"hook-{name}"
    return Tenant(
        name,
        policies={bucket: replace(policy, bucket=bucket) for bucket in (f"of-{name}", "common")},
        quotas=(Quota("grants", "day", 1_000),),
        endpoints={hook: WebhookEndpoint(hook, "https://example.com/", "env:HOOK")},
        keys=tenant_keys(key),
    )
