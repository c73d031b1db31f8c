"""Generated audit logs: several tenants, kinds, refusals, reissues, uses, checkpoints and more."""

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any, NamedTuple
from unittest import mock

from sqlalchemy import Engine, insert, select

from models import Batch, Checkpoint, Chunk, Grant, TreeHead
from tests.support.audit_log.pruned_log import KEPT, OLD
from tests.support.builders import services
from tests.support.builders.messages import DEMO, POLICY, Clock, grant_message, split_chunks
from tests.support.builders.services import InProcessService
from tests.support.uses.reports import downloaded, stored
from tests.support.uses.settlements import settle
from valetkey.wire.grant_ids import grant_id
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine, read_transaction, write_transaction
from worker.base.month_partitions import add_months
from worker.erasure.erasure import ErasureTarget, erase_texts, find_texts
from worker.ledger import tenant_rows
from worker.ledger.merkle import RightEdge, entry_hash
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.proof.checkpoint_format import CheckpointText, Fork, SignerKey, tree_origin
from worker.proof.prune import plan_prune, prune
from worker.quota.quota_changes import raise_quota
from worker.revoke.revocation_rows import insert_revocation
from worker.revoke.revocation_targets import Target
from worker.rules.tenant_config import Quota, QuotaOverride, Tenant, TenantConfig
from worker.shared.grant_items import is_in_chunk
from worker.shared.months import first_moment
from worker.tenants.config_changes import ChangeAuthor
from worker.uses.use_recorder import record_uses
from worker.uses.use_reports import UseReport

_ISSUED = (
    select(Batch, Chunk.issued_at, Grant.item_number, Grant.object_key)
    .join(Chunk, Chunk.batch_number == Batch.batch_number)
    .join(Grant, is_in_chunk())
    .where(Grant.code.is_(None))
    .order_by(Grant.batch_number, Grant.item_number)
)
TENANTS = ("acme", "globex", "initech")
KEY_NAME = "audit.example.com/valetkey"
_BATCHES = 24


class GeneratedLog(NamedTuple):
    """A log, the key that signed its checkpoints, and the last checkpoint of each tenant."""

    url: str
    signer: SignerKey
    notes: dict[str, str]


def generate_log(url: str, seed: int, *, is_pruned: bool = False) -> GeneratedLog:
    """Fill a new database with an audit log; the same seed gives the same requests.

    is_pruned issues a third of the batches in an earlier month, and removes its items.
    """
    engine = create_database_engine(url)
    try:
        return _Generator(engine, random.Random(seed), is_pruned=is_pruned).run(url)
    finally:
        engine.dispose()


class _Generator:
    def __init__(self, engine: Engine, rng: random.Random, *, is_pruned: bool) -> None:
        self._engine = engine
        self._rng = rng
        self._clock = Clock()
        self._is_pruned = is_pruned
        if is_pruned:
            self._clock.time = first_moment(OLD)
        self._signer = SignerKey.generate(KEY_NAME)
        self._messages: list[dict[str, Any]] = []

    def run(self, url: str) -> GeneratedLog:
        self._apply_config()
        with _service(self._engine, self._clock, "AKIDEXAMPLE") as service:
            for number in range(_BATCHES):
                if self._is_pruned and number == _BATCHES // 3:
                    self._clock.time = first_moment(KEPT)
                self._issue(service, number)
                if number % 8 == 5:
                    self._sign()
        if self._is_pruned:
            self._prune()
        with _service(self._engine, self._clock, "AKIDROTATED") as service:
            for message in self._rng.sample(self._messages, 6):
                service.issue(message)
            self._use(service)
        self._revoke()
        self._erase()
        self._declare_forks()
        self._change_config()
        return GeneratedLog(url, self._signer, self._sign())

    def _apply_config(self) -> None:
        config = TenantConfig(
            {"demo": DEMO},
            {
                name: Tenant(
                    name,
                    trust="queue",
                    policies={"demo": replace(POLICY, prefixes=(f"{name}/",))},
                    quotas=(Quota("grants", "day", 60 if name == "initech" else 10_000),),
                )
                for name in TENANTS
            },
        )
        with write_transaction(self._engine) as connection:
            services.replace_config(connection, config, self._clock())

    def _issue(self, service: InProcessService, number: int) -> None:
        rng = self._rng
        tenant = rng.choice(TENANTS)
        message = self._message(tenant, number)
        if number % 7 == 3:
            service.issue(_cancel(tenant, message["batch"]))
        chunks = split_chunks(message, rng.choice([2, 3, 4]))
        for chunk in chunks[: rng.choice([len(chunks), max(1, len(chunks) - 1)])]:
            outcome = service.issue(chunk)
            if any("url" in item for item in outcome["items"]):
                self._messages.append(chunk)
        if number % 7 == 5:
            service.issue(_cancel(tenant, message["batch"]))
        self._clock.forward(minutes=rng.randrange(50), microseconds=rng.randrange(10**6))

    def _message(self, tenant: str, number: int) -> dict[str, Any]:
        rng = self._rng
        owners = [tenant if rng.random() < 0.85 else "elsewhere" for _ in range(rng.randint(1, 9))]
        keys = [f'{owner}/{number}/ü "{n}".png' for n, owner in enumerate(owners)]
        message = grant_message(keys, tenant=tenant, recipient=rng.choice([None, "auditor"]))
        kind = rng.choice(["download", "upload", "put"])
        if kind != "download":
            terms = {"kind": kind, "bucket": "demo", "expires_in": 300, "max_size": 500_000}
            message["grant"] = terms | {"content_type": "image/png"}
        for item in message["items"] if kind == "put" else ():
            item["size"] = rng.randrange(1, 500_000)
        for item in rng.sample(message["items"], len(message["items"]) // 3):
            item |= {
                "recipient": rng.choice(["ann", "bob"]),
                "reason": "case 9",
                "ref": f"{number}",
            }
        return message

    def _use(self, service: InProcessService) -> None:
        """Record uses of some grants, and settle the chunks of some upload slots."""
        reports, slots = list[UseReport](), dict[int, int]()
        with read_transaction(self._engine) as connection:
            for row in connection.execute(_ISSUED).all():
                id_ = grant_id(row.batch_id, row.item_number)
                if row.kind == "download":
                    report = downloaded(id_, row.object_key, row.issued_at)
                else:
                    report = stored(id_, row.object_key, row.issued_at)
                    slots[row.batch_number] = row.item_number // row.chunk_size
                reports += [report] if self._rng.random() < 0.6 else []
        for start in range(0, len(reports), 5):
            record_uses(reports[start : start + 5], service.context)
        for batch_number, chunk_number in slots.items():
            settle(self._engine, batch_number, chunk_number, self._clock())

    def _revoke(self) -> None:
        """Record revocations: single grants, and one that concerns two tenants."""
        now = self._clock()
        for number in range(6):
            owners = {TENANTS[number % 3]: 1 + number, TENANTS[1]: 2}
            target = Target("key", f"{TENANTS[number % 3]}/{number}.png", "demo")
            id_ = f"01932000-0000-4000-8000-{self._rng.randrange(10**12):012}"
            reason = self._rng.choice([None, "case 4711"])
            revocation = {
                "revocation_id": id_,
                "target_kind": target.kind,
                "target": target.value,
                "bucket": target.bucket,
                "storage": "valetkey-demo",
                "revoked_by": "alice",
                "reason": reason,
                "revoked_at": now,
                "lapses_at": now,
            }
            with write_transaction(self._engine) as connection:
                insert_revocation(connection, revocation, owners, [])

    def _erase(self) -> None:
        erasure = {"erased_by": "carl", "reason": "case 12", "erased_at": self._clock()}
        for number, tenant in enumerate(TENANTS):
            id_ = f"01932000-0000-7000-8000-{number:012}"
            with write_transaction(self._engine) as connection:
                rows = find_texts(connection, ErasureTarget(recipient="ann", tenant=tenant))
                erase_texts(connection, rows, {**erasure, "erasure_id": id_})

    def _declare_forks(self) -> None:
        for tenant in TENANTS:
            text = CheckpointText(tree_origin(KEY_NAME, tenant), 9_999, bytes(32))
            notes, at = [self._signer.sign(str(text))], "2026-11-24T12:30:00.000000Z"
            record = Fork(tenant, notes, "restored a backup", "dora", at).record
            leaf = NewLeaf("fork", entry_hash([record.encode()]), reference=record)
            with write_transaction(self._engine) as connection:
                append_leaf(connection, tenant, leaf)

    def _prune(self) -> None:
        now = first_moment(add_months(KEPT, 2))
        with read_transaction(self._engine) as connection:
            plan = plan_prune(connection, KEPT, now)
        assert plan.items > 0
        prune(self._engine, plan, "ops", now, lambda _number: None)

    def _change_config(self) -> None:
        with write_transaction(self._engine) as connection:
            config = tenant_rows.load_config(connection)
            acme = config.tenants["acme"]
            policy = replace(acme.policies["demo"], prefixes=("a/", "ü/"))
            acme = replace(acme, max_batch=2, policies={"demo": policy})
            config = replace(config, tenants={**config.tenants, "acme": acme})
            services.replace_config(connection, config, self._clock())
        with write_transaction(self._engine) as connection:
            override = QuotaOverride("grants", "day", 5, self._clock() + timedelta(days=1))
            globex = tenant_rows.load_config(connection).tenants["globex"]
            raise_quota(connection, globex, override, ChangeAuthor(self._clock(), "bob", "apply"))

    def _sign(self) -> dict[str, str]:
        """Store a checkpoint of each tree that has grown; return the notes of all trees."""
        notes = {}
        with write_transaction(self._engine) as connection:
            sizes = connection.execute(select(Checkpoint.tenant, Checkpoint.size))
            known = {tuple(row) for row in sizes}
            heads = connection.execute(select(TreeHead.tenant, TreeHead.size, TreeHead.edge))
            for tenant, size, edge in heads.all():
                root = RightEdge.from_bytes(size, edge).root()
                text = CheckpointText(tree_origin(KEY_NAME, tenant), size, root)
                notes[tenant] = self._signer.sign(str(text))
                if (tenant, size) not in known:
                    values = {"root": root, "signed_at": self._clock(), "note": notes[tenant]}
                    connection.execute(
                        insert(Checkpoint).values(tenant=tenant, size=size, **values)
                    )
        return notes


def _cancel(tenant: str, batch_id: str) -> dict[str, Any]:
    header = {"v": 1, "ask": "cancel", "tenant": tenant, "requested_by": "ann"}
    return header | {"reason": "a mistake", "batch": batch_id}


@contextmanager
def _service(engine: Engine, clock: Clock, access_key: str) -> Iterator[InProcessService]:
    environ = {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
    with mock.patch.dict(os.environ, environ):
        yield services.build_service(engine, S3Clients(), clock)
