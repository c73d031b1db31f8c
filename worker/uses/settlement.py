"""Settles chunks of upload slots that ended: probes storage, and gives back what they did not use.

A day after their end, storage is asked once more for items that may have stored more, unless the
bucket profile has events: an upload that began in time may have ended since, and is charged.

Each bucket profile has a thread of its own, which asks its storage. A process may be killed at any
time: what it claimed is due again, objects that were found are recorded once, and one transaction
deletes the row of a chunk, gives back its bytes and inserts its settlement.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from secrets import token_hex
from typing import Literal, NamedTuple

import structlog
from sqlalchemy import Connection

from worker.aws.object_calls import Missing, StorageRefuses, StoredFile
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun, Pace, ThreadGroup
from worker.context import Context
from worker.core.issued_grants import CLOCK_SKEW, UsedGrant, storage_name
from worker.core.tenant_config import TenantConfig
from worker.errors import Transient
from worker.ledger.quota_usage import SettledBytes, give_back_bytes
from worker.ledger.reservations import (
    EndedChunk,
    buckets_with_due_slots,
    claim_ended_chunks,
    insert_second_look,
    lease_slot,
    postpone_ended_chunk,
    take_ended_chunk,
)
from worker.ledger.tree_leaves import NewLeaf, append_leaves
from worker.uses.settlement_rows import (
    find_stored_key,
    has_denials,
    has_moved,
    has_unfinished_uploads,
    insert_settlement,
    read_stored_sizes,
)
from worker.uses.stored_objects import add_stored_bytes, begin_counting_objects, read_newest_sizes
from worker.uses.upload_deliveries import insert_unused_delivery
from worker.uses.use_recorder import ProbedStorage, Sighting, find_storage, record_sightings
from worker.uses.use_rows import read_chunk_grants
from worker.uses.use_rules import SettledChunk, kept_bytes, settle_chunk


class UnreadableStorage(Transient):
    """Storage answers 403, and shows no object that the credentials may read."""

    def __init__(self, *, is_denied: bool) -> None:
        text = "storage hides objects: allow s3:GetObject or s3:ListBucket"
        if is_denied:
            text = "a revocation denies objects of the bucket to every request, this one too"
        super().__init__(text, "storage")


class ProbedChunk(NamedTuple):
    """A chunk, its grants, and what storage has of them.

    unclear are the numbers of the items that may have stored something else, and sizes those of the
    objects that storage has, by item number.
    """

    slot: EndedChunk
    grants: Sequence[UsedGrant]
    unclear: frozenset[int] = frozenset()
    sizes: Mapping[int, int] = {}


Unprobed = Literal["unfinished", "nobody_tells"]
"""The reasons for which a chunk is not probed.

unfinished: the abort of one of its multipart uploads is still to come. nobody_tells: its tenant has
no access to the bucket profile any more, the profile allows no requests, or its grants are pruned.
"""

_Answer = StoredFile | Missing | StorageRefuses


class ChunkProbe:
    """Asks the storage of one bucket profile, in turns that `wait` gives. One thread uses it."""

    def __init__(self, context: Context, wait: Callable[[], None]) -> None:
        self._context = context
        self._wait = wait
        self._storages: dict[str, ProbedStorage | None] = {}
        self._shown: dict[str, str | None] = {}  # a key that the credentials read, by tenant
        self._hides_missing: dict[str, bool] = {}  # by tenant

    def probe(self, slot: EndedChunk) -> ProbedChunk | Unprobed:
        """Ask for objects that may be larger than is known, and record those found.

        A form may be used again, so an object that a source told of may have been replaced, but not
        by a larger one if it has all the bytes of its grant. Raises Transient, and records before
        what it found.
        """
        config = self._context.config.current()
        with read_transaction(self._context.engine) as connection:
            grants = read_chunk_grants(connection, *slot.key, config)
            if not grants:
                return "nobody_tells"
            if has_unfinished_uploads(connection, slot.batch_number, slot.items):
                return "unfinished"
            stored = read_stored_sizes(connection, slot.batch_number, slot.items)
            known = {each.item_number: each for each in grants if each.has_known_key}
            newest = read_newest_sizes(connection, slot.batch_number, known)
            moved = has_moved(connection, slot.bucket, grants[0].issued_at)
        asked = [each for n, each in known.items() if newest.get(n, -1) < each.reserved_bytes]
        if not asked:
            return ProbedChunk(slot, grants)
        storage = self._storage(slot)
        unasked = ProbedChunk(slot, grants, frozenset(each.item_number for each in asked))
        if storage is None:
            is_told = all(grant.item_number in stored for grant in asked)
            return unasked if is_told else "nobody_tells"
        is_denied = self._is_denied(storage)
        try:
            answers = self._ask(slot.tenant, asked, storage)
        except (StorageRefuses, UnreadableStorage):
            if any(_may_give_back(grant, stored) for grant in asked):
                raise
            return unasked
        is_denied |= self._is_denied(storage)  # as of either moment: it may have begun or ended
        unclear = frozenset(
            grant.item_number
            for grant, answer in answers
            if moved or not self._is_clear(answer, grant, stored, is_denied=is_denied)
        )
        return ProbedChunk(slot, grants, unclear, _own_sizes(answers))

    def _ask(
        self, tenant: str, grants: Sequence[UsedGrant], storage: ProbedStorage
    ) -> list[tuple[UsedGrant, _Answer]]:
        """Ask for objects, and record those found. Raises Transient, as if storage refuses all."""
        answers: list[tuple[UsedGrant, _Answer]] = []
        try:
            for grant in grants:
                answer = self._find(grant.object_key, tenant, storage)
                answers.append((grant, answer))
                if answer == "hidden":
                    self._check_hiding(tenant, storage)
        except Transient:
            self._record(answers, storage)
            raise
        self._record(answers, storage)
        refusals = [answer for _, answer in answers if isinstance(answer, StorageRefuses)]
        if len(refusals) == len(answers):
            raise refusals[0]
        return answers

    def _find(self, object_key: str, tenant: str, storage: ProbedStorage) -> _Answer:
        self._wait()
        try:
            answer = storage.files.find(object_key)
        except StorageRefuses as error:
            return error
        if isinstance(answer, StoredFile):
            self._shown[tenant] = object_key
        return answer

    def _record(self, answers: Sequence[tuple[UsedGrant, _Answer]], storage: ProbedStorage) -> None:
        sightings = [
            Sighting(grant, storage_name(storage.bucket), answer)
            for grant, answer in answers
            if isinstance(answer, StoredFile)
        ]
        record_sightings(sightings, self._context)

    def _storage(self, slot: EndedChunk) -> ProbedStorage | None:
        if slot.tenant not in self._storages:
            now = self._context.now()
            self._storages[slot.tenant] = find_storage(slot.tenant, slot.bucket, self._context, now)
        return self._storages[slot.tenant]

    def _is_clear(
        self, answer: _Answer, grant: UsedGrant, told: Container[int], *, is_denied: bool
    ) -> bool:
        """Return true if storage has nothing of the grant but what it answered.

        told are the items of which a source told before. An object of another grant must be older
        than a grant of which none did: otherwise it may have replaced one. The time of an object of
        parts is that of the start of its upload.
        """
        match answer:
            case "absent":
                return True
            case "hidden":
                # A policy, or a key that reading it requires, can hide this object alone.
                is_special = is_denied or grant.has_encryption_key
                return self._hides_missing[grant.tenant] and not is_special
            case StorageRefuses():
                return False
        if grant.item_number in told or _is_own(answer, grant):
            return True
        return "-" not in answer.etag and answer.modified_at < grant.issued_at - CLOCK_SKEW

    def _is_denied(self, storage: ProbedStorage) -> bool:
        """Return true if a denial of our own may hide objects of the bucket from this process.

        On AWS a denial concerns only presigned requests and forms.
        """
        if self._context.s3.is_aws(storage.bucket):
            return False
        with read_transaction(self._context.engine) as connection:
            return has_denials(connection, storage_name(storage.bucket))

    def _check_hiding(self, tenant: str, storage: ProbedStorage) -> None:
        """Find out, once, if storage answers 403 for what is missing. Raises UnreadableStorage.

        Asks for a key that nothing has, next to an object that the credentials read: if storage
        answers 404 for it, it hides only what is there.
        """
        if tenant in self._hides_missing:
            return
        key = self._find_shown(tenant, storage)
        if key is None:
            raise UnreadableStorage(is_denied=self._is_denied(storage))
        answer = self._find(f"{key}.{token_hex(8)}", tenant, storage)
        self._hides_missing[tenant] = answer == "hidden"

    def _find_shown(self, tenant: str, storage: ProbedStorage) -> str | None:
        """Return a key that the credentials read; of an object that is known, if none was shown."""
        if tenant not in self._shown:
            with read_transaction(self._context.engine) as connection:
                key = find_stored_key(connection, tenant, storage_name(storage.bucket))
            self._shown[tenant] = None
            if key is not None:
                self._find(key, tenant, storage)
        return self._shown[tenant]


def _may_give_back(grant: UsedGrant, stored: Mapping[int, int | None]) -> bool:
    if grant.item_number not in stored:
        return True
    return kept_bytes(stored[grant.item_number], grant.reserved_bytes) < grant.reserved_bytes


def _own_sizes(answers: Sequence[tuple[UsedGrant, _Answer]]) -> dict[int, int]:
    return {
        grant.item_number: answer.size
        for grant, answer in answers
        if isinstance(answer, StoredFile) and _is_own(answer, grant)
    }


def _is_own(file: StoredFile, grant: UsedGrant) -> bool:
    return file.grant_id == grant.id


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
    threads: ThreadGroup[str, _Turn] = ThreadGroup(
        partial(_settle_in_bucket, context=context, run=run), "settle"
    )
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
        self._probe = ChunkProbe(context, self._wait)
        self._probed: list[ProbedChunk] = []
        self._unfinished: list[EndedChunk] = []
        self._left: list[EndedChunk] = []  # for the next turn
        self._not_probed: list[EndedChunk] = []
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
                self._left.append(slot)

    def _probe_slot(self, slot: EndedChunk, now: datetime) -> None:
        try:
            result = self._probe.probe(slot)
        except Exception as error:
            if not isinstance(error, Transient):
                log.exception("probe_failed", batch_number=slot.batch_number)
            self._fail(slot, now, error)
            return
        self._failures = 0
        if isinstance(result, ProbedChunk):
            self._probed.append(result)
        elif result == "unfinished":
            self._unfinished.append(slot)
        else:
            self._not_probed.append(slot)

    def _fail(self, slot: EndedChunk, now: datetime, error: Exception) -> None:
        named = {"bucket": slot.bucket, "batch_number": slot.batch_number}
        # Storage that refuses to tell of something answers, and may tell of the next chunk.
        if not isinstance(error, UnreadableStorage | StorageRefuses | _Stopping):
            self._failures += 1
        is_old = slot.ended_at <= now - GIVE_UP_AFTER and slot.attempts >= MIN_EARLIER_ATTEMPTS
        if is_old and not isinstance(error, _Stopping):
            log.warning("slots_given_up", **named, chunk_number=slot.chunk_number)
            self._not_probed.append(slot)
        else:
            problem = str(error) if isinstance(error, Transient) else type(error).__name__
            log.warning("settlement_postponed", **named, problem=problem)
            self.counts["postponed"] += 1

    def settle(self) -> None:
        """Settle the probed chunks, and end those that no storage tells of. Raises Transient."""
        now, config = self._context.now(), self._context.config.current()
        with write_transaction(self._context.engine) as connection:
            for slot in self._unfinished:
                postpone_ended_chunk(connection, slot, now + UPLOAD_DELAY)
            for slot in self._left:
                postpone_ended_chunk(connection, slot, now)
            counts, is_told = _settle(connection, self._probed, self._not_probed, config, now)
        if is_told:
            self._context.trigger_deliveries()
        if counts["ended"]:
            log.info("slots_not_settled", bucket=self._bucket, chunks=counts["ended"])
        self.counts += counts + Counter(waiting=len(self._unfinished))
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
    connection: Connection,
    probed: Iterable[ProbedChunk],
    not_probed: Iterable[EndedChunk],
    config: TenantConfig,
    now: datetime,
) -> tuple[Counter[str], bool]:
    """End chunks, unless another process did; count them, and say if a webhook tells of them.

    Those that were not probed get nothing back. All chunks are locked before any object, as when
    uses are recorded. Appends leaves, so call it last.
    """
    counts, is_told = Counter[str](), False
    given_back: list[SettledBytes] = []
    leaves: defaultdict[str, list[NewLeaf]] = defaultdict(list)
    ended = [*probed, *(ProbedChunk(slot, ()) for slot in not_probed)]
    ended.sort(key=lambda each: each.slot.key)
    reservations = [(each, take_ended_chunk(connection, each.slot)) for each in ended]
    taken = [(each, reserved) for each, reserved in reservations if reserved is not None]
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
                is_told |= insert_unused_delivery(connection, each.grants[0], now)
        counts["settled" if each.grants else "ended"] += 1
        given_back.append(SettledBytes(slot.tenant, slot.charged_at, reserved, returned))
    give_back_bytes(connection, given_back)
    add_stored_bytes(connection, stored_bytes)
    for tenant_id, of_tenant in sorted(leaves.items()):
        append_leaves(connection, tenant_id, of_tenant)
    return counts, is_told


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
