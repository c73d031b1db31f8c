"""Tenants beside each other in one service, for tests to turn against one another."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import permutations
from typing import Any

from sqlalchemy import Engine, select

from models import Batch, Chunk, Delivery, Grant, Multipart, Reservation, Usage
from tests.support.builders import services
from tests.support.builders.messages import DEMO, POLICY, Clock, grant_message
from tests.support.crypto.tokens import sign_message
from tests.support.crypto.tokens import tenant_keys as public
from valetkey.crypto.keys import PrivateKey, generate_key
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Endpoint, Quota, Tenant, TenantConfig
from worker.db import tenants
from worker.db.engine import read_transaction, write_transaction

NAMES = [f"t{number}" for number in range(1, 21)]  # t1/ begins like t10/, as siblings do
TERMS: list[dict[str, Any]] = [
    {"kind": "download", "expires_in": 60},
    {"kind": "upload", "expires_in": 60, "max_size": 10},
    {"kind": "put", "expires_in": 60, "max_size": 10},
    {"kind": "multipart", "expires_in": 60, "max_size": 10},
]


@dataclass(frozen=True)
class TenantSide:
    """A tenant, and what is its own."""

    name: str
    key: PrivateKey
    batches: list[dict[str, Any]]  # one for each test that names another's: half has arrived
    captured: str
    answer: str
    upload: str

    @property
    def second(self) -> dict[str, Any]:
        """The chunk of its first batch that has not arrived."""
        return self.batches[0] | {"chunk": 1, "items": [{"key": f"{self.name}/b"}]}

    @property
    def ids(self) -> list[str]:
        """The ids of its batches."""
        return [batch["batch"] for batch in self.batches]


class TenantMatrix:
    """A service for all of them, and a count of what they tried on each other."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.clock = Clock()
        self.service = services.build_service(engine, S3Clients(), self.clock)
        self.tried = 0
        keys = {name: generate_key(f"{name}/main") for name in NAMES}
        with write_transaction(engine) as connection:
            tenants.store_config(connection, TenantConfig(), matrix_config(keys))
        self.sides = [self._side(key) for key in keys.values()]

    def pairs(self) -> Iterator[tuple[TenantSide, TenantSide]]:
        """Each with every other."""
        return permutations(self.sides, 2)

    def ask(
        self, me: TenantSide, raw: dict[str, Any], key: PrivateKey | None = None
    ) -> dict[str, Any]:
        return self.tell(sign_message(raw, key or me.key, self.clock()))

    def tell(self, raw: Any) -> dict[str, Any]:
        self.tried += 1
        return self.service.issue(raw)

    def refused(self, me: TenantSide, raw: dict[str, Any], key: PrivateKey | None = None) -> str:
        said = self.ask(me, raw, key)
        assert not any("url" in item for item in said["items"])
        return str(said["refusal"]["code"])

    def held(self) -> dict[str, list[Any]]:
        """What the tables have of what was each one's from the start."""
        own = {(side.name, of) for side in self.sides for of in (*side.ids, side.upload[:-2])}
        of_these = Batch.id.in_({of for _, of in own})
        with read_transaction(self.engine) as connection:
            batches = connection.execute(select(Batch).where(of_these)).all()
            kept = {row.number: row for row in batches if (row.tenant, row.id) in own}
            found: dict[str, list[Any]] = {"batches": list(kept.values())}
            for table in (Chunk, Grant, Reservation, Multipart, Delivery):
                rows = connection.execute(select(table).where(table.batch.in_(kept)))
                found[str(table.__tablename__)] = list(rows)
        return found

    def used(self) -> dict[str, int]:
        with read_transaction(self.engine) as connection:
            rows = connection.execute(select(Usage).where(Usage.window == "day"))
            return {row.tenant: row.grants for row in rows}

    def _side(self, key: PrivateKey) -> TenantSide:
        batches = [self._half(key.tenant) for _ in range(4)]
        tokens = [sign_message(batch, key, self.clock()) for batch in batches]
        answers = [str(self.service.answer(one).wire) for one in tokens]
        begun = as_own(
            grant_message([f"{key.tenant}/film"], tenant=key.tenant, grant=TERMS[3]), "common"
        )
        begun["items"][0]["size"] = 10
        upload = self.service.issue(sign_message(begun, key, self.clock()))
        return TenantSide(key.tenant, key, batches, tokens[0], answers[0], upload["items"][0]["id"])

    def _half(self, name: str) -> dict[str, Any]:
        """The first chunk of a batch of two."""
        batch = grant_message([f"{name}/a", f"{name}/b"], chunk_size=1, tenant=name)
        return as_own(batch | {"items": batch["items"][:1], "callback": f"hook-{name}"})


def as_own(raw: dict[str, Any], bucket: str | None = None) -> dict[str, Any]:
    """A message for a bucket profile, the asker's own where none is named."""
    return raw | {"grant": raw["grant"] | {"bucket": bucket or f"of-{raw['tenant']}"}}


def ask_message(me: TenantSide, **changes: Any) -> dict[str, Any]:
    return as_own(grant_message([f"{me.name}/a"], tenant=me.name, **changes))


def matrix_config(keys: dict[str, PrivateKey]) -> TenantConfig:
    """A bucket profile for each, and one in which each has a prefix of its own."""
    profiles = {f"of-{name}": replace(DEMO, name=f"of-{name}", bucket=name * 2) for name in keys}
    profiles["common"] = replace(DEMO, name="common")
    return TenantConfig(profiles, {name: matrix_tenant(name, key) for name, key in keys.items()})


def matrix_tenant(name: str, key: PrivateKey) -> Tenant:
    policy = replace(POLICY, prefixes=(f"{name}/",))
    hook = f"hook-{name}"
    return Tenant(
        name,
        policies={bucket: replace(policy, bucket=bucket) for bucket in (f"of-{name}", "common")},
        quotas=(Quota("grants", "day", 1_000),),
        endpoints={hook: Endpoint(hook, "https://example.com/", "env:HOOK")},
        keys=public(key),
    )
