"""The service and its model side by side: each step is taken by both, and then compared."""

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, func, select

from models import Batch, Reservation, Settlement, StoredObject, Usage, Use
from tests.support.builders import services
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    batch_id,
    grant_message,
    tenant_config,
)
from tests.support.fakes.statements import before_statements
from tests.support.uses.memory_bucket import MemoryBucket, MemoryClients, MemoryObject
from tests.support.uses.slots_model import EXPIRES_IN, MAX_SIZE, ChunkKey, ModelGrant, SlotsModel
from worker.core.tenants.config import TenantConfig
from worker.core.tenants.storage_names import storage_name
from worker.core.uses.item_ranges import parse_items
from worker.core.uses.reports import UseReport
from worker.core.uses.states import grant_state
from worker.db import tenants
from worker.db.engine import read_transaction, write_transaction
from worker.db.uses.states import read_state_facts
from worker.db.uses.used_grants import find_used_grants
from worker.errors import Transient
from worker.usecases.upkeep.cleanup import clean_up
from worker.usecases.uses.probe import probe_grants
from worker.usecases.uses.record import record_uses
from worker.usecases.uses.settle import settle_ended

CHUNK_SIZE = 2
KEYS = ("acme/a", "acme/b", "acme/c")
REAL_BUCKET = storage_name(DEMO)


class Killed(BaseException):
    """The process ends here."""


class CheckedSlots:
    """Takes steps, and compares what the tables tell with the model."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.clock, self.model, self.bucket = Clock(), SlotsModel(), MemoryBucket()
        self._service = services.build_service(engine, MemoryClients(self.bucket), self.clock)
        self.history: list[UseReport] = []  # all that happened in storage
        self._batches: dict[str, int] = {}
        self.apply_config()

    def apply_config(self) -> None:
        policies = {"demo": replace(POLICY, overwrite=True)}
        config = tenant_config(policies=policies, refund_unused=self.model.refund_unused)
        buckets = {"demo": replace(config.buckets["demo"], probe_rate=100_000)}
        with write_transaction(self._engine) as connection:
            before = tenants.load_config(connection)
            after = TenantConfig(buckets, config.tenants)
            tenants.store_config(connection, before, after, self.clock())

    def issue(self, kind: str, keys: Sequence[str], *, is_whole: bool) -> list[str]:
        """Issue a batch of one or two chunks; return the ids of its grants."""
        message = self._message(kind, keys)
        chunks = -(-len(keys) // CHUNK_SIZE) if is_whole else 1
        ids: list[str] = []
        for chunk in range(chunks):
            items = message["items"][chunk * CHUNK_SIZE : (chunk + 1) * CHUNK_SIZE]
            sent = message | {"chunk": chunk, "items": items}
            for index, item in enumerate(self._service.issue(sent)["items"]):
                number = chunk * CHUNK_SIZE + index
                place = (message["batch"], chunk)
                grant = ModelGrant(item["id"], place, number, kind, item["key"], self.clock())
                self.model.grants[grant.id] = grant
                ids.append(grant.id)
        return ids

    def _message(self, kind: str, keys: Sequence[str]) -> dict[str, Any]:
        terms = {"kind": kind, "bucket": "demo", "expires_in": EXPIRES_IN, "max_size": MAX_SIZE}
        terms |= {"overwrite": True} if kind == "put" else {}
        message = grant_message(keys, batch=batch_id(), grant=terms) | {"chunk_size": CHUNK_SIZE}
        size = {"size": MAX_SIZE} if kind == "put" else {}
        return message | {"items": [{"key": key} | size for key in keys]}

    def cancel(self, grant_id: str) -> None:
        """Cancel the batch of a grant."""
        header = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "ann"}
        self._service.issue(header | {"batch": self.model.grants[grant_id].chunk[0]})

    def store(self, grant_id: str, size: int) -> None:
        """Let a client use a grant. Storage has another time for each object."""
        self.clock.forward(seconds=1)
        key, etag = self.model.grants[grant_id].key, f"{len(self.history)}"
        self.bucket.objects[key] = MemoryObject(grant_id, size, etag, self.clock())
        report = UseReport("stored", "event", REAL_BUCKET, key, grant_id, self.clock(), size, etag)
        self.history.append(report)

    def delete(self, key: str) -> None:
        """Let the bucket's owner delete an object."""
        self.clock.forward(seconds=1)
        if self.bucket.objects.pop(key, None) is not None:
            etag = f"{len(self.history)}"
            report = UseReport("deleted", "event", REAL_BUCKET, key, None, self.clock(), etag=etag)
            self.history.append(report)

    def tell(self, number: int) -> None:
        """Let storage send an event of something that happened, maybe again."""
        report = self.history[number % len(self.history)]
        if report.event == "deleted":  # it names no grant: only a known object tells which
            record_uses([report], self._service.context)
        else:
            record_uses([report], self._service.context)
            self.model.tell([report])

    def probe(self, grant_id: str) -> None:
        """Ask storage for the object of a grant."""
        context = self._service.context
        with read_transaction(self._engine) as connection:
            (grant,) = find_used_grants(connection, [grant_id], context.config.current())[grant_id]
        try:
            probe_grants([grant], context)
        except Transient:
            assert self.bucket.is_silent
        self._learn()
        found = None if self.bucket.is_silent else self.bucket.objects.get(grant.object_key)
        assert found is None or (grant.object_key, found.etag) in self.model.told

    def clean_up(self) -> None:
        """Release what has expired."""
        clean_up(self._service.context)

    def settle(self, killed_at: int | None = None) -> None:
        """Settle what is due; with killed_at, end at the statement with this number."""
        statements = Counter[str]()

        def kill(_: str) -> None:
            statements["all"] += 1
            if statements["all"] == killed_at:
                raise Killed

        with suppress(Killed), before_statements(self._engine, kill):
            settle_ended(self._service.context)
        self._learn()
        settled = self._settlements()
        for chunk in settled.keys() - self.model.settled.keys():
            self.model.settled[chunk] = self.model.settle(chunk, self.bucket.objects)
        expected = {
            chunk: (set(unused), used, returned)
            for chunk, (unused, used, returned) in self.model.settled.items()
        }
        assert settled == expected

    def _learn(self) -> None:
        """Take what was found for known: each use is one that happened."""
        happened = {(r.grant_id, r.etag): r for r in self.history if r.event == "stored"}
        query = select(Batch.batch_id, Use.item_number, Use.etag).join(
            Batch, Batch.batch_number == Use.batch_number
        )
        with read_transaction(self._engine) as connection:
            rows = connection.execute(query.where(Use.event == "stored")).all()
        self.model.tell(happened[f"{row.batch_id}.{row.item_number}", row.etag] for row in rows)

    def _settlements(self) -> dict[ChunkKey, tuple[set[int], int, int]]:
        columns = (Settlement.unused, Settlement.used_bytes, Settlement.returned_bytes)
        query = select(Batch.batch_id, Settlement.chunk_number, *columns).join(
            Batch, Batch.batch_number == Settlement.batch_number
        )
        with read_transaction(self._engine) as connection:
            return {
                (id_, chunk): ({n for part in parse_items(unused) for n in part}, used, returned)
                for id_, chunk, unused, used, returned in connection.execute(query)
            }

    def check(self) -> None:
        """Compare the tables with the model."""
        granted = len(self.model.grants) * MAX_SIZE
        returned = sum(settled.returned_bytes for settled in self.model.settled.values())
        waiting = self._sum(Reservation.upload_bytes, Reservation.chunk_number == -1)
        charged = self._sum(Usage.upload_bytes, Usage.window == "day")
        assert charged == granted + waiting - returned
        live = self._sum(Usage.stored_bytes, Usage.window == "live")
        assert live == self._sum(StoredObject.size)
        self._check_states()

    def _sum(self, column: Any, *conditions: Any) -> int:
        with read_transaction(self._engine) as connection:
            return int(connection.scalar(select(func.sum(column)).where(*conditions)) or 0)

    def _check_states(self) -> None:
        states, now = dict[str, str](), self.clock()
        with read_transaction(self._engine) as connection:
            batches = select(Batch.batch_number, Batch.batch_id)
            for number, id_ in connection.execute(batches).all():
                facts = read_state_facts(connection, number, range(len(KEYS) + 1))
                states |= {f"{id_}.{item}": grant_state(f, now) for item, f in facts.items()}
        grants = self.model.grants
        assert states == {id_: self.model.state(grant, now) for id_, grant in grants.items()}

    def wait(self, duration: timedelta) -> None:
        """Let time pass."""
        self.clock.time += duration
