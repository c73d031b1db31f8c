"""Asks storage what a chunk of ended upload slots stored, before the chunk is settled."""

from collections.abc import Callable, Container, Mapping, Sequence
from secrets import token_hex
from typing import Literal, NamedTuple

from valetkey.wire.grant_ids import grant_id
from worker.aws.stored_files import Missing, StorageRefuses, StoredFile
from worker.context import Context
from worker.core.tenants.storage_names import storage_name
from worker.core.uses.reports import CLOCK_SKEW
from worker.core.uses.settlement import kept_bytes
from worker.core.uses.used_grant import UsedGrant
from worker.db.engine import read_transaction
from worker.db.uses.ended_slots import Slot
from worker.db.uses.settlements import (
    find_stored_key,
    has_denials,
    has_moved,
    has_unfinished_uploads,
    read_stored_sizes,
)
from worker.db.uses.stored_objects import read_newest_sizes
from worker.db.uses.used_grants import read_chunk_grants
from worker.errors import Transient
from worker.usecases.uses.probe import ProbedStorage, Sighting, find_storage, record_sightings


class UnreadableStorage(Transient):
    """Storage answers 403, and shows no object that the credentials may read."""

    def __init__(self, *, is_denied: bool) -> None:
        text = "storage hides objects: allow s3:GetObject or s3:ListBucket"
        if is_denied:
            text = "a revocation denies objects of the bucket to every request, this one too"
        super().__init__(text, "storage")


class ProbedSlot(NamedTuple):
    """A chunk, its grants, and what storage has of them.

    unclear are the numbers of the items that may have stored something else, and sizes those of the
    objects that storage has, by item number.
    """

    slot: Slot
    grants: Sequence[UsedGrant]
    unclear: frozenset[int] = frozenset()
    sizes: Mapping[int, int] = {}


Unprobed = Literal["unfinished", "nobody_tells"]
"""The reasons for which a chunk is not probed.

unfinished: the abort of one of its multipart uploads is still to come. nobody_tells: its tenant has
no access to the bucket profile any more, the profile allows no requests, or its grants are pruned.
"""

_Answer = StoredFile | Missing | StorageRefuses


class SlotProbe:
    """Asks the storage of one bucket profile, in turns that `wait` gives. One thread uses it."""

    def __init__(self, context: Context, wait: Callable[[], None]) -> None:
        self._context = context
        self._wait = wait
        self._storages: dict[str, ProbedStorage | None] = {}
        self._shown: dict[str, str | None] = {}  # a key that the credentials read, by tenant
        self._hides_missing: dict[str, bool] = {}  # by tenant

    def probe(self, slot: Slot) -> ProbedSlot | Unprobed:
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
            return ProbedSlot(slot, grants)
        storage = self._storage(slot)
        unasked = ProbedSlot(slot, grants, frozenset(each.item_number for each in asked))
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
        return ProbedSlot(slot, grants, unclear, _own_sizes(answers))

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

    def _storage(self, slot: Slot) -> ProbedStorage | None:
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
    return file.grant_id == grant_id(grant.batch_id, grant.item_number)
