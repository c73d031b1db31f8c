"""Settles chunks of upload slots that ended: probes storage, and gives back what they did not use.

A day after their end, storage is asked once more for items that may have stored more, unless the
bucket profile has events: an upload that began in time may have ended since, and is charged.

Each bucket profile has a thread of its own, which asks its storage. A process may be killed at any
time: what it claimed is due again, objects that were found are recorded once, and one transaction
deletes the row of a chunk, gives back its bytes and inserts its settlement.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial

import structlog
from sqlalchemy import Connection, insert

from models import Settlement
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.errors import Transient
from worker.ledger.merkle import encode_record, entry_hash
from worker.ledger.quota_usage import SettledBytes, give_back_bytes
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.rules.tenant_config import TenantConfig
from worker.shared.pages import format_items
from worker.shared.stored_files import StorageRefuses
from worker.shared.threads import ThreadGroup
from worker.uses.chunk_probe import ChunkProbe, ProbedChunk
from worker.uses.ended_slots import (
    EndedChunk,
    buckets_with_due_slots,
    claim_ended_chunks,
    insert_second_look,
    lease_slot,
    postpone_ended_chunk,
    take_ended_chunk,
)
from worker.uses.rate_limits import Pace
from worker.uses.stored_objects import add_stored_bytes, begin_counting_objects
from worker.uses.upload_deliveries import insert_unused_delivery
from worker.uses.use_reports import UsedGrant
from worker.uses.use_rows import read_stored_sizes
from worker.uses.use_rules import SettledChunk, settle_chunk
from worker.webhooks.decided_batches import DELIVER_TASK

MAX_BUCKETS = 8
"""The bucket profiles whose storage is asked at the same time."""

MAX_TURN_SECONDS = 60.0
"""The time after which a bucket profile begins no further chunk while others may wait."""

GIVE_UP_AFTER = timedelta(days=7)
"""The time after which a chunk ends without an answer of storage, and nothing is given back."""

MIN_EARLIER_ATTEMPTS = 8
"""The attempts before the one at which a chunk ends so: the upkeep may not have run for a week."""

MAX_FAILURES = 3
"""The failures in a row after which storage is left alone until the next run."""

UPLOAD_DELAY = timedelta(minutes=5)
"""The time in which the chunk waits for the end of its multipart uploads."""

_WAIT = 1.0  # seconds between two looks at which bucket profiles are due

log = structlog.get_logger()


def settle_ended_slots(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Settle the chunks of upload slots that are due.

    Returns the numbers of chunks: settled, checked at the second look, postponed after a failure,
    waiting for the abort of a multipart upload, and ended without a settlement. Storage that does
    not answer delays only its own bucket profile. Raises Transient.
    """
    run = run or JobRun()
    counts: Counter[str] = Counter()
    running: set[str] = set()
    resting: set[str] = set()  # their storage failed in this run
    turns: Counter[str] = Counter()
    threads = ThreadGroup(partial(_settle_in_bucket, context=context, run=run), "settle")
    while not run.is_stopping:
        with read_transaction(context.engine) as connection:
            due = buckets_with_due_slots(connection, context.now())
        for bucket in sorted(due, key=turns.__getitem__):
            if bucket not in running | resting and threads.running < MAX_BUCKETS:
                turns[bucket] += 1
                running.add(bucket)
                threads.start(bucket)
        if not running:
            break
        for bucket, turn in threads.wait(_WAIT):
            running.remove(bucket)
            counts += turn.counts
            if turn.has_failed or not turn.counts:
                resting.add(bucket)
            run.progress()
    return dict(counts)


class _Stopping(Transient):
    """The worker ends: what it claimed is due again later."""


class _Turn:
    """Probes what one bucket profile has due, and settles it in one transaction.

    counts are numbers of chunks. has_failed is true if storage or the database failed.
    """

    def __init__(self, bucket: str, context: Context, run: JobRun) -> None:
        self._context = context
        self._run = run
        self._bucket = bucket
        profile = context.config.current().buckets.get(bucket)
        self._rate = 0 if profile is None else profile.probe_rate
        self._pace = Pace(self._rate or 1, run.sleep)
        self._probe = ChunkProbe(bucket, context, self._wait)
        self._ended: list[ProbedChunk] = []
        self._waiting: list[tuple[EndedChunk, datetime]] = []  # and until when
        self._begin = time.monotonic()
        self._end = 0.0  # that of the claim
        self._failures = 0  # in a row
        self.counts: Counter[str] = Counter()
        self.has_failed = False

    def _wait(self) -> None:
        self._pace.wait()
        self._run.progress()
        if self._run.is_stopping:
            raise _Stopping
        if time.monotonic() > self._end:
            raise Transient("storage is too slow for so many items", "storage")

    def probe_slots(self) -> None:
        """Claim the chunks that are due, and ask storage for their objects. Raises Transient."""
        now = self._context.now()
        with write_transaction(self._context.engine) as connection:
            random = self._context.random
            slots = claim_ended_chunks(connection, self._bucket, now, self._rate, random)
        self._end = self._begin + lease_slot(slots, self._rate).total_seconds()
        for slot in slots:
            if self._failures == MAX_FAILURES or self._run.is_stopping:
                self.counts["postponed"] += 1
            elif slot is slots[0] or time.monotonic() < self._begin + MAX_TURN_SECONDS:
                self._probe_slot(slot, now)
            else:
                self._waiting.append((slot, now))  # for the next turn

    def _probe_slot(self, slot: EndedChunk, now: datetime) -> None:
        try:
            result = self._probe.probe(slot)
        except Exception as error:
            if not isinstance(error, Transient):
                log.exception("probe_failed", batch_number=slot.batch_number)
            self._fail(slot, now, error)
            return
        self._failures = 0
        if result is not None:
            self._ended.append(result)
        else:
            self._waiting.append((slot, now + UPLOAD_DELAY))
            self.counts["waiting"] += 1

    def _fail(self, slot: EndedChunk, now: datetime, error: Exception) -> None:
        named = {"bucket": slot.bucket, "batch_number": slot.batch_number}
        # Storage that refuses one object still answers, and may describe those of the next chunk.
        if not isinstance(error, StorageRefuses | _Stopping):
            self._failures += 1
        is_old = slot.ended_at <= now - GIVE_UP_AFTER and slot.attempts >= MIN_EARLIER_ATTEMPTS
        if is_old and not isinstance(error, _Stopping):
            log.warning("slots_given_up", **named, chunk_number=slot.chunk_number)
            self._ended.append(ProbedChunk(slot))
        else:
            problem = str(error) if isinstance(error, Transient) else type(error).__name__
            log.warning("settlement_postponed", **named, problem=problem)
            self.counts["postponed"] += 1

    def settle(self) -> None:
        """Settle the probed chunks, and end those without grants. Raises Transient."""
        now, config = self._context.now(), self._context.config.current()
        with write_transaction(self._context.engine) as connection:
            for slot, until in self._waiting:
                postpone_ended_chunk(connection, slot, until)
            counts, has_delivery = _settle(connection, self._ended, config, now)
        if has_delivery:
            self._context.trigger(DELIVER_TASK)
        if counts["ended"]:
            log.info("slots_not_settled", bucket=self._bucket, chunks=counts["ended"])
        self.counts += counts
        self.has_failed = self._failures == MAX_FAILURES


def _settle_in_bucket(bucket: str, context: Context, run: JobRun) -> _Turn:
    turn = _Turn(bucket, context, run)
    try:
        turn.probe_slots()
        turn.settle()
    except Transient as error:
        log.warning("settlement_postponed", bucket=bucket, problem=str(error))
        turn.has_failed = True
    except Exception:
        # A chunk that no table takes must not end the run of the other profiles.
        log.exception("settlement_failed", bucket=bucket)
        turn.has_failed = True
    return turn


def _settle(
    connection: Connection, ended: Iterable[ProbedChunk], config: TenantConfig, now: datetime
) -> tuple[Counter[str], bool]:
    """End chunks, unless another process did; count them, and return true if a webhook is due.

    All chunks are locked before any object, as when uses are recorded. Appends leaves, so call it
    last.
    """
    counts, has_delivery = Counter[str](), False
    given_back: list[SettledBytes] = []
    leaves: defaultdict[str, list[NewLeaf]] = defaultdict(list)
    taken = [
        (each, reserved)
        for each in sorted(ended, key=lambda each: each.slot.key)
        if (reserved := take_ended_chunk(connection, each.slot)) is not None
    ]
    first_looks = [each.slot for each, _ in taken if not each.slot.is_settled]
    chunks = [(slot.batch_number, slot.items) for slot in first_looks]
    stored_bytes = begin_counting_objects(connection, chunks)
    for each, reserved in taken:
        slot, returned = each.slot, 0
        if slot.is_settled:
            counts["checked" if each.grants else "ended"] += 1
            continue
        if each.grants:
            settled, returned = _give_back(connection, each, reserved, config)
            leaf = insert_settlement(connection, each.grants[0], settled, returned, now)
            leaves[slot.tenant].append(leaf)
            if settled.unused:
                grant = each.grants[0]
                has_delivery |= insert_unused_delivery(connection, grant, config, now)
        counts["settled" if each.grants else "ended"] += 1
        given_back.append(SettledBytes(slot.tenant, slot.charged_at, reserved, returned))
    give_back_bytes(connection, given_back)
    add_stored_bytes(connection, stored_bytes)
    for tenant_id, of_tenant in sorted(leaves.items()):
        append_leaf(connection, tenant_id, *of_tenant)
    return counts, has_delivery


def _give_back(
    connection: Connection, probed: ProbedChunk, reserved: int, config: TenantConfig
) -> tuple[SettledChunk, int]:
    """Return what a chunk used, and the bytes that it gets back; plan the second look."""
    slot, grants, unclear, sizes = probed
    stored = read_stored_sizes(connection, slot.batch_number, slot.items)
    settled = settle_chunk(grants, {**sizes, **stored}, unclear, reserved)
    profile = config.buckets.get(slot.bucket)
    has_second_look = profile is not None and profile.probe_rate and not profile.events_queue
    if has_second_look and any(grant.has_known_key for grant in grants):
        insert_second_look(connection, slot)
    tenant = config.tenant_by_id(slot.tenant)
    is_refunded = tenant is not None and tenant.refund_unused
    return settled, settled.returned_bytes if is_refunded else 0


def insert_settlement(
    connection: Connection, grant: UsedGrant, settled: SettledChunk, returned: int, now: datetime
) -> NewLeaf:
    """Insert the settlement of the chunk of a grant; return its leaf, to be appended last."""
    values = {
        "batch_number": grant.batch_number,
        "chunk_number": grant.chunk_number,
        "tenant": grant.tenant,
        "unused": format_items(settled.unused),
        "used_bytes": settled.used_bytes,
        "returned_bytes": returned,
        "settled_at": now,
    }
    connection.execute(insert(Settlement), values)
    record = encode_record("settlement", values, batch_id=grant.batch_id)
    return NewLeaf("settlement", entry_hash([record]), grant.batch_number, grant.chunk_number)
