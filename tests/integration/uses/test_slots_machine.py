"""Runs random steps on upload slots: states and refunds are those of a simple model."""

import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import func, select

from models import Batch, EndedSlot, Reservation, Settlement, StoredObject, Usage, Use
from tests.support.builders.messages import (
    DEMO,
    POLICY,
    Clock,
    grant_message,
    split_chunks,
    tenant_config,
)
from tests.support.builders.services import build_context
from tests.support.fakes.statements import before_statements
from tests.support.servers.databases import NewDatabase, migrated_temporary_file
from tests.support.uses.use_service import UseService
from worker.audit.grant_states import grant_state
from worker.audit.state_facts import read_state_facts
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine, read_transaction
from worker.errors import StorageSilent
from worker.issue.cleanup import clean_up
from worker.rules.issued_grants import storage_name
from worker.rules.tenant_config import TenantConfig
from worker.shared.pages import parse_items
from worker.shared.reported_values import CLOCK_SKEW
from worker.shared.stored_files import Missing, StoredFile
from worker.uses import storage_probes
from worker.uses.settlement import settle_ended_slots
from worker.uses.storage_probes import probe_grants
from worker.uses.use_reports import GRACE, UseReport
from worker.uses.use_rows import find_used_grants

MAX_SIZE = 100
EXPIRES_IN = 300

ChunkKey = tuple[str, int]
"""The id of a batch, and the number of a chunk."""

EXAMPLES = int(os.environ.get("VALETKEY_TEST_EXAMPLES", "40"))
MAX_STATEMENTS = 40  # more than settling takes in most examples
CHUNK_SIZE = 2
KEYS = ("acme/a", "acme/b", "acme/c")

sizes = st.integers(0, MAX_SIZE + 20) | st.just(MAX_SIZE)
keys = st.sampled_from(KEYS)
waits = st.sampled_from([timedelta(minutes=1), timedelta(minutes=5), GRACE, timedelta(hours=18)])

# Hypothesis shrinks a failing example before it reports it: that takes minutes.
pytestmark = pytest.mark.timeout(600 + 2 * EXAMPLES)


class MemoryObject(NamedTuple):
    """A stored object, and the id of the grant that stored it."""

    grant_id: str
    size: int
    etag: str
    modified_at: datetime


@dataclass
class MemoryBucket:
    """Objects by key. While is_silent, nothing is answered."""

    objects: dict[str, MemoryObject] = field(default_factory=dict)
    is_silent: bool = False

    def find(self, object_key: str, _version: str | None = None) -> StoredFile | Missing:
        if self.is_silent:
            raise StorageSilent("storage does not answer")
        found = self.objects.get(object_key)
        if found is None:
            return "absent"
        grant, size, etag, modified_at = found
        return StoredFile(grant, size, etag, None, None, None, modified_at)


class MemoryClients(S3Clients):
    """Signs as always, and makes calls to a bucket in memory."""

    def __init__(self, bucket: MemoryBucket) -> None:
        super().__init__()
        self._bucket = bucket

    def client(self, *_: Any, **__: Any) -> Any:
        return self._bucket


@pytest.fixture(autouse=True)
def files_are_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_probes, "FileReader", lambda bucket, _: bucket)


class ModelGrant(NamedTuple):
    """An issued upload slot: a form, or a put of MAX_SIZE."""

    id: str
    chunk: ChunkKey
    item: int
    kind: str
    key: str
    issued_at: datetime

    @property
    def expires_at(self) -> datetime:
        return self.issued_at + timedelta(seconds=EXPIRES_IN)

    def allows(self, size: int) -> bool:
        return size == MAX_SIZE if self.kind == "put" else size <= MAX_SIZE


class ModelSettlement(NamedTuple):
    """The unused part of a chunk of slots, and the bytes that each grant keeps."""

    unused: frozenset[int]
    used_bytes: int
    returned_bytes: int
    kept: Mapping[str, int] = {}
    settled_at: datetime | None = None


@dataclass
class SlotsModel:
    """The slots, the reports that were told, and the settlements of one tenant."""

    grants: dict[str, ModelGrant] = field(default_factory=dict)
    told: dict[tuple[str, str], UseReport] = field(default_factory=dict)
    newest: dict[str, UseReport] = field(default_factory=dict)
    changed_at: dict[str, datetime] = field(default_factory=dict)
    settled: dict[ChunkKey, ModelSettlement] = field(default_factory=dict)
    refund_unused: bool = True

    def tell(self, reports: Iterable[UseReport]) -> None:
        """Count reports as known, each once."""
        for report in sorted(reports, key=lambda report: report.occurred_at):
            key = report.object_key
            self.told.setdefault((key, report.etag or ""), report)
            if key not in self.changed_at or report.occurred_at > self.changed_at[key]:
                self.newest[key], self.changed_at[key] = report, report.occurred_at

    def tell_deletion(self, report: UseReport) -> None:
        """An object that was stored before, and is told of later, is no newest one any more."""
        before = self.changed_at.get(report.object_key)
        if before is not None and report.occurred_at > before:
            self.changed_at[report.object_key] = report.occurred_at

    def stored_by(self, grant: ModelGrant) -> list[UseReport]:
        """Return what is known to be stored by a grant, oldest first."""
        reports = (report for report in self.told.values() if report.grant_id == grant.id)
        return sorted(
            (r for r in reports if r.event == "stored"), key=lambda report: report.occurred_at
        )

    def state(self, grant: ModelGrant, now: datetime) -> str:
        stored = self.stored_by(grant)
        if stored:
            return self._used_state(grant, stored[-1])
        if now < grant.expires_at:
            return "open"
        settlement = self.settled.get(grant.chunk)
        is_unused = settlement is not None and grant.item in settlement.unused
        return "unused" if is_unused else "unknown"

    def _used_state(self, grant: ModelGrant, report: UseReport) -> str:
        if self.newest[grant.key].grant_id != grant.id:
            return "overwritten"
        if not grant.allows(report.size or 0):
            return "mismatched"
        is_late = report.occurred_at > grant.expires_at + CLOCK_SKEW
        return "late" if is_late else "used"

    def most_stored(self, grant: ModelGrant) -> int | None:
        """Return the size of the largest object that is known to be stored by a grant."""
        return max((report.size or 0 for report in self.stored_by(grant)), default=None)

    def settle(
        self, chunk: ChunkKey, objects: Mapping[str, MemoryObject], now: datetime
    ) -> ModelSettlement:
        """Return the settlement of a chunk now, after everything that was found was told."""
        unused, kept = set[int](), dict[str, int]()
        used = returned = 0
        for grant in self.grants.values():
            if grant.chunk != chunk:
                continue
            size = self.most_stored(grant)
            there = objects.get(grant.key)
            if size is None and there and there.modified_at >= grant.issued_at - CLOCK_SKEW:
                kept[grant.id] = MAX_SIZE
                continue  # it may have replaced an object of this grant
            if size is None:
                unused.add(grant.item)
            kept[grant.id] = min(size or 0, MAX_SIZE)
            used += size or 0
            returned += MAX_SIZE - kept[grant.id]
        returned = returned if self.refund_unused else 0
        return ModelSettlement(frozenset(unused), used, returned, kept, now)

    def late_bytes(self) -> int:
        """Return what grants are known to have stored beyond what their settlement kept."""
        return sum(
            max(min(self.most_stored(self.grants[id_]) or 0, MAX_SIZE) - kept, 0)
            for settled in self.settled.values()
            if settled.returned_bytes
            for id_, kept in settled.kept.items()
        )


class Killed(BaseException):
    """The process ends here."""


class SlotsMachine(RuleBasedStateMachine):
    """Issues, uses, tells, asks, waits, cancels and settles, in any order.

    The service and its model take each step, and are then compared.
    """

    grants: Bundle[str] = Bundle("grants")

    def __init__(self, new_database: NewDatabase) -> None:
        super().__init__()
        self._stack = ExitStack()
        engine = create_database_engine(self._stack.enter_context(new_database()))
        self._stack.callback(engine.dispose)
        self.clock, self.model, self.bucket = Clock(), SlotsModel(), MemoryBucket()
        context = build_context(engine, MemoryClients(self.bucket), self.clock)
        self.service = UseService(context, self.clock)
        self.history: list[UseReport] = []  # all that happened in storage
        self.configure_refunds(refund_unused=True)
        self.clock.forward(seconds=1)  # a slot of the moment of its profile may be older

    def teardown(self) -> None:
        self._stack.close()

    @rule(refund_unused=st.booleans())
    def configure_refunds(self, *, refund_unused: bool) -> None:
        self.model.refund_unused = refund_unused
        policies = {"demo": replace(POLICY, overwrite=True)}
        config = tenant_config(policies=policies, refund_unused=refund_unused)
        buckets = {"demo": replace(config.buckets["demo"], probe_rate=100_000)}
        self.service.apply(TenantConfig(buckets, config.tenants))

    @rule(
        target=grants,
        kind=st.sampled_from(["upload", "put"]),
        keys=st.lists(keys, min_size=1, max_size=3),
        is_whole=st.booleans(),
    )
    def issue(self, kind: str, keys: list[str], *, is_whole: bool) -> Any:
        """Issue a batch of one or two chunks, or its first chunk."""
        terms = {"kind": kind, "bucket": "demo", "expires_in": EXPIRES_IN, "max_size": MAX_SIZE}
        terms |= {"overwrite": True} if kind == "put" else {}
        size = {"size": MAX_SIZE} if kind == "put" else {}
        items = [{"key": key} | size for key in keys]
        chunks = split_chunks(grant_message(keys, grant=terms, items=items), CHUNK_SIZE)
        ids: list[str] = []
        for chunk in chunks if is_whole else chunks[:1]:
            place = (chunk["batch"], chunk["chunk"])
            for item in self.service.issue(chunk)["items"]:
                number = int(item["id"].rpartition(".")[2])
                grant = ModelGrant(item["id"], place, number, kind, item["key"], self.clock())
                self.model.grants[grant.id] = grant
                ids.append(grant.id)
        return multiple(*ids)

    @rule(grant=grants)
    def cancel(self, grant: str) -> None:
        header = {"v": 1, "ask": "cancel", "tenant": "acme", "requested_by": "ann"}
        self.service.issue(header | {"batch": self.model.grants[grant].chunk[0]})

    @rule(grant=grants, size=sizes)
    def store(self, grant: str, size: int) -> None:
        """Let a client use a grant. Storage has another time for each object."""
        self.clock.forward(seconds=1)
        key, etag = self.model.grants[grant].key, f"{len(self.history)}"
        self.bucket.objects[key] = MemoryObject(grant, size, etag, self.clock())
        self._happen("stored", key, grant, size, etag)

    @rule(key=keys)
    def delete(self, key: str) -> None:
        """Let the bucket's owner delete an object."""
        self.clock.forward(seconds=1)
        if self.bucket.objects.pop(key, None) is not None:
            self._happen("deleted", key, None, None, f"{len(self.history)}")

    def _happen(self, event: Any, key: str, grant: str | None, size: int | None, etag: str) -> None:
        now, bucket = self.clock(), storage_name(DEMO)
        self.history.append(UseReport(event, "event", bucket, key, grant, now, size, etag))

    @precondition(lambda self: self.history)
    @rule(number=st.integers(0, 1_000))
    def tell(self, number: int) -> None:
        """Let storage send an event of something that happened, maybe again."""
        report = self.history[number % len(self.history)]
        self.service.record(report)
        if report.event == "stored":
            self.model.tell([report])
        else:
            self.model.tell_deletion(report)

    @rule(grant=grants)
    def probe(self, grant: str) -> None:
        context = self.service.context
        with read_transaction(self.service.engine) as connection:
            (used,) = find_used_grants(connection, [grant], context.config.current())[grant]
        profile = context.config.current().buckets[used.bucket]
        assert probe_grants([used], profile, context) is None or self.bucket.is_silent
        self._learn()
        found = None if self.bucket.is_silent else self.bucket.objects.get(used.object_key)
        assert found is None or (used.object_key, found.etag) in self.model.told

    @rule(duration=waits, has_cleanup=st.booleans())
    def wait(self, duration: timedelta, *, has_cleanup: bool) -> None:
        self.clock.time += duration
        if has_cleanup:
            clean_up(self.service.context)

    @rule(killed_at=st.none() | st.integers(1, MAX_STATEMENTS))
    def settle(self, killed_at: int | None) -> None:
        """Settle what is due; with killed_at, end at the statement with this number."""
        statements = Counter[str]()

        def kill(_: str) -> None:
            statements["all"] += 1
            if statements["all"] == killed_at:
                raise Killed

        second_looks = self._chunks(EndedSlot, EndedSlot.is_settled)
        with suppress(Killed), before_statements(self.service.engine, kill):
            settle_ended_slots(self.service.context)
        self._learn()
        settled, now = self._settlements(), self.clock()
        self.clock.forward(seconds=1)  # what is told from now on is told after the settlement
        for chunk in settled.keys() - self.model.settled.keys():
            self.model.settled[chunk] = self.model.settle(chunk, self.bucket.objects, now)
        assert settled == {chunk: each[:3] for chunk, each in self.model.settled.items()}
        for chunk in second_looks - self._chunks(EndedSlot, EndedSlot.is_settled):
            stored = self._objects_of(chunk)
            assert all(self._is_known(each) or self._is_counted(each) for each in stored)

    def _chunks(self, table: Any, *conditions: Any) -> set[ChunkKey]:
        query = select(Batch.batch_id, table.chunk_number).join(
            Batch, Batch.batch_number == table.batch_number
        )
        with read_transaction(self.service.engine) as connection:
            return {(row[0], row[1]) for row in connection.execute(query.where(*conditions))}

    def _objects_of(self, chunk: ChunkKey) -> list[MemoryObject]:
        stored = self.bucket.objects.values()
        return [each for each in stored if self.model.grants[each.grant_id].chunk == chunk]

    def _is_known(self, stored: MemoryObject) -> bool:
        return (self.model.grants[stored.grant_id].key, stored.etag) in self.model.told

    def _is_counted(self, stored: MemoryObject) -> bool:
        key = self.model.grants[stored.grant_id].key
        counted = self._sum(StoredObject.size, StoredObject.object_key == key)
        return counted >= min(stored.size, MAX_SIZE)

    @rule(grant=grants, size=sizes | st.none(), is_told=st.booleans())
    def end_and_settle(self, grant: str, size: int | None, *, is_told: bool) -> None:
        if size is not None:
            self.store(grant, size)
            if is_told:
                self.tell(-1)
        self.wait(timedelta(hours=7), has_cleanup=True)
        self.settle(None)

    @rule(is_silent=st.booleans())
    def silence_storage(self, *, is_silent: bool) -> None:
        self.bucket.is_silent = is_silent

    def _learn(self) -> None:
        """Take what was found for known: each use is one that happened."""
        happened = {(r.grant_id, r.etag): r for r in self.history if r.event == "stored"}
        query = select(Batch.batch_id, Use.item_number, Use.etag).join(
            Batch, Batch.batch_number == Use.batch_number
        )
        with read_transaction(self.service.engine) as connection:
            rows = connection.execute(query.where(Use.event == "stored")).all()
        self.model.tell(happened[f"{row.batch_id}.{row.item_number}", row.etag] for row in rows)

    def _settlements(self) -> dict[ChunkKey, tuple[frozenset[int], int, int]]:
        columns = (Settlement.unused, Settlement.used_bytes, Settlement.returned_bytes)
        query = select(Batch.batch_id, Settlement.chunk_number, *columns).join(
            Batch, Batch.batch_number == Settlement.batch_number
        )
        with read_transaction(self.service.engine) as connection:
            return {
                (id_, chunk): (frozenset[int]().union(*parse_items(unused)), used, returned)
                for id_, chunk, unused, used, returned in connection.execute(query)
            }

    @invariant()
    def charges_are_those_of_the_model(self) -> None:
        granted = len(self.model.grants) * MAX_SIZE
        returned = sum(settled.returned_bytes for settled in self.model.settled.values())
        waiting = self._sum(Reservation.upload_bytes, Reservation.chunk_number == -1)
        charged = self._sum(Usage.upload_bytes, Usage.window == "day")
        assert charged == granted + waiting - returned + self.model.late_bytes()
        unsettled = self._sum(Reservation.upload_bytes) + self._sum(EndedSlot.reserved_bytes)
        assert self._sum(Usage.upload_bytes, Usage.window == "live") == unsettled
        live = self._sum(Usage.stored_bytes, Usage.window == "live")
        assert live == self._sum(StoredObject.size, StoredObject.is_counted)

    @invariant()
    def what_is_stored_is_charged(self) -> None:
        """Except what arrived late and is not known yet, and slots that were given up."""
        unsettled = self._chunks(Reservation) | self._chunks(EndedSlot, ~EndedSlot.is_settled)
        stored = sum(
            min(each.size, MAX_SIZE)
            for each in self.bucket.objects.values()
            if self._is_known(each) or self._was_in_time(each, unsettled)
        )
        charged = self._sum(Usage.stored_bytes + Usage.upload_bytes, Usage.window == "live")
        assert stored <= charged

    def _was_in_time(self, stored: MemoryObject, unsettled: Collection[ChunkKey]) -> bool:
        chunk = self.model.grants[stored.grant_id].chunk
        settlement = self.model.settled.get(chunk)
        if settlement is None or settlement.settled_at is None:
            return chunk in unsettled
        return stored.modified_at <= settlement.settled_at

    def _sum(self, column: Any, *conditions: Any) -> int:
        with read_transaction(self.service.engine) as connection:
            return int(connection.scalar(select(func.sum(column)).where(*conditions)) or 0)

    @invariant()
    def states_are_those_of_the_model(self) -> None:
        states, now = dict[str, str](), self.clock()
        with read_transaction(self.service.engine) as connection:
            batches = select(Batch.batch_number, Batch.batch_id)
            for number, id_ in connection.execute(batches).all():
                facts = read_state_facts(connection, number, range(len(KEYS) + 1))
                states |= {f"{id_}.{item}": grant_state(f, now) for item, f in facts.items()}
        grants = self.model.grants
        assert states == {id_: self.model.state(grant, now) for id_, grant in grants.items()}


def run_machine(new_database: NewDatabase, examples: int) -> None:
    run_state_machine_as_test(
        lambda: SlotsMachine(new_database),  # type: ignore[arg-type] # any function that makes one
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")


def test_states_and_refunds_are_those_of_the_model_on_sqlite() -> None:
    run_machine(migrated_temporary_file, EXAMPLES)


def test_states_and_refunds_are_those_of_the_model_on_postgresql(new_postgres: NewDatabase) -> None:
    run_machine(new_postgres, EXAMPLES // 4)
