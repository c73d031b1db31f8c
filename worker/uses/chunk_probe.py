"""Asks storage which objects of a chunk of upload slots it has, and which answers are certain."""

from collections.abc import Callable, Container, Mapping, Sequence
from datetime import datetime
from functools import cache, partial
from secrets import token_hex
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, exists, select

from models import ConfigChange, Denial, MultipartUpload, StoredObject
from worker.base.database_engine import read_transaction
from worker.context import Context
from worker.rules.issued_grants import storage_name
from worker.shared.reported_values import CLOCK_SKEW
from worker.shared.stored_files import Missing, StorageRefuses, StoredFile
from worker.uses.ended_slots import EndedChunk
from worker.uses.storage_probes import ProbedStorage, find_storage, record_sightings
from worker.uses.stored_objects import read_newest_sizes
from worker.uses.use_reports import UsedGrant
from worker.uses.use_rows import read_chunk_grants, read_stored_sizes
from worker.uses.use_rules import kept_bytes


class ProbedChunk(NamedTuple):
    """A chunk, its grants, and what storage has of them.

    It has no grants if storage cannot be asked: its tenant has no access to the bucket profile any
    more, the profile allows no requests, its grants are pruned, or storage did not answer for a
    week.
    unclear are the numbers of the items that may have stored something else, and sizes those of
    the objects that storage has, by item number.
    """

    slot: EndedChunk
    grants: Sequence[UsedGrant] = ()
    unclear: frozenset[int] = frozenset()
    sizes: Mapping[int, int] = {}


_Answer = StoredFile | Missing | StorageRefuses


class ChunkProbe:
    """Asks the storage of one bucket profile, in turns that `wait` gives. One thread uses it."""

    def __init__(self, bucket: str, context: Context, wait: Callable[[], None]) -> None:
        self._context = context
        self._wait = wait
        self._find_storage = cache(partial(find_storage, bucket=bucket, context=context))
        self._shown: dict[str, str | None] = {}  # a key that the credentials read, by tenant
        self._hides_missing: dict[str, bool] = {}  # by tenant

    def probe(self, slot: EndedChunk) -> ProbedChunk | None:
        """Ask for objects that may be larger than is known, and record those found.

        A form may be used again. So a larger object may have replaced a reported one, unless that
        has all the bytes of its grant. Returns None if the abort of a multipart upload is still to
        come. Raises Transient, and records before what it found.
        """
        config = self._context.config.current()
        with read_transaction(self._context.engine) as connection:
            grants = read_chunk_grants(connection, *slot.key, config)
            if not grants:
                return ProbedChunk(slot)
            if _has_unfinished_uploads(connection, slot.batch_number, slot.items):
                return None
            stored = read_stored_sizes(connection, slot.batch_number, slot.items)
            known = {each.item_number: each for each in grants if each.has_known_key}
            newest = read_newest_sizes(connection, slot.batch_number, known)
            moved = _has_moved(connection, slot.bucket, grants[0].issued_at)
        asked = [each for n, each in known.items() if newest.get(n, -1) < each.reserved_bytes]
        if not asked:
            return ProbedChunk(slot, grants)
        storage = self._find_storage(slot.tenant)
        unasked = ProbedChunk(slot, grants, frozenset(each.item_number for each in asked))
        if storage is None:
            are_reported = all(grant.item_number in stored for grant in asked)
            return unasked if are_reported else ProbedChunk(slot)
        is_denied = self._is_denied(storage)
        try:
            answers = self._ask(slot.tenant, asked, storage)
        except StorageRefuses:
            if any(_may_give_back(grant, stored) for grant in asked):
                raise
            return unasked
        is_denied |= self._is_denied(storage)  # at either time: it may have begun or ended
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
        finally:
            found = [(grant, file) for grant, file in answers if isinstance(file, StoredFile)]
            record_sightings(storage.bucket, found, self._context)
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

    def _is_clear(
        self, answer: _Answer, grant: UsedGrant, reported: Container[int], *, is_denied: bool
    ) -> bool:
        """Return true if storage has nothing of the grant but what it answered.

        reported are the items that a source reported before. If the item is not among them, an
        object of another grant must be older than this grant: otherwise it may have replaced one.
        The time of an object of parts is that of the start of its upload.
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
        if grant.item_number in reported or answer.grant_id == grant.id:
            return True
        return "-" not in answer.etag and answer.modified_at < grant.issued_at - CLOCK_SKEW

    def _is_denied(self, storage: ProbedStorage) -> bool:
        """Return true if a denial of our own may hide objects of the bucket from this process.

        On AWS a denial concerns only presigned requests and forms.
        """
        if self._context.s3.is_aws(storage.bucket):
            return False
        with read_transaction(self._context.engine) as connection:
            return _has_row(connection, Denial.storage == storage_name(storage.bucket))

    def _check_hiding(self, tenant: str, storage: ProbedStorage) -> None:
        """Find out, once, if storage answers 403 for what is missing.

        Asks for a key that nothing has, next to an object that the credentials read: if storage
        answers 404 for it, it hides only what is there. Raises StorageRefuses if the credentials
        can read no object that is known.
        """
        if tenant in self._hides_missing:
            return
        if tenant not in self._shown:
            with read_transaction(self._context.engine) as connection:
                known = _find_stored_key(connection, tenant, storage_name(storage.bucket))
            self._shown[tenant] = None
            if known is not None:
                self._find(known, tenant, storage)
        key = self._shown[tenant]
        if key is None:
            problem = "storage hides objects: allow s3:GetObject or s3:ListBucket"
            if self._is_denied(storage):
                problem = "a revocation denies objects of the bucket to every request, this one too"
            raise StorageRefuses(problem, "storage")
        answer = self._find(f"{key}.{token_hex(8)}", tenant, storage)
        self._hides_missing[tenant] = answer == "hidden"


def _may_give_back(grant: UsedGrant, stored: Mapping[int, int | None]) -> bool:
    if grant.item_number not in stored:
        return True
    return kept_bytes(stored[grant.item_number], grant.reserved_bytes) < grant.reserved_bytes


def _own_sizes(answers: Sequence[tuple[UsedGrant, _Answer]]) -> dict[int, int]:
    return {
        grant.item_number: answer.size
        for grant, answer in answers
        if isinstance(answer, StoredFile) and answer.grant_id == grant.id
    }


def _has_unfinished_uploads(connection: Connection, batch_number: int, items: range) -> bool:
    """Return true if the abort of a multipart upload of these items is still to come."""
    return _has_row(
        connection,
        MultipartUpload.batch_number == batch_number,
        MultipartUpload.item_number.between(items.start, items.stop - 1),
        MultipartUpload.state != "closed",
    )


def _find_stored_key(connection: Connection, tenant: str, bucket: str) -> str | None:
    """Return the key of an object that one of a tenant's grants stored in a real bucket."""
    query = select(StoredObject.object_key).where(
        StoredObject.bucket == bucket,
        StoredObject.tenant == tenant,
        StoredObject.is_deleted.is_(False),
    )
    return connection.scalar(query.limit(1))


def _has_moved(connection: Connection, profile: str, since: datetime) -> bool:
    """Return true if a bucket profile has led to other storage since a time."""
    paths = [f"buckets.{profile}.{name}" for name in ("bucket", "endpoint")]
    return _has_row(connection, ConfigChange.changed_at >= since, ConfigChange.path.in_(paths))


def _has_row(connection: Connection, *conditions: ColumnElement[bool]) -> bool:
    return bool(connection.scalar(select(exists().where(*conditions))))
