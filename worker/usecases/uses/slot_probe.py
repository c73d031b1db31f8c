"""Asks storage what a chunk of ended upload slots stored, before the chunk is settled."""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from valetkey.wire.grant_ids import grant_id
from worker.aws.stored_files import Missing, StoredFile
from worker.context import Context
from worker.core.tenants.storage_names import storage_name
from worker.core.uses.used_grant import UsedGrant
from worker.core.uses.verdicts import CLOCK_SKEW
from worker.db.engine import read_transaction
from worker.db.uses.ended_slots import Slot
from worker.db.uses.settlements import (
    find_stored_key,
    has_moved,
    has_unfinished_uploads,
    read_stored_sizes,
)
from worker.db.uses.used_grants import read_chunk_grants
from worker.errors import Transient
from worker.usecases.uses.probe import ProbedStorage, Sighting, find_storage, record_sightings


class UnreadableStorage(Transient):
    """The credentials do not let storage tell what is missing: allow s3:GetObject or s3:ListBucket.

    Storage answers as if an object was there that they may not read.
    """


class ProbedSlot(NamedTuple):
    """A chunk, its grants, and the numbers of the items that may have stored something."""

    slot: Slot
    grants: Sequence[UsedGrant]
    unclear: frozenset[int]


Unprobed = Literal["unfinished", "nobody_tells"]
"""The reasons for which a chunk is not probed.

unfinished: the abort of one of its multipart uploads is still to come. nobody_tells: its tenant has
no access to the bucket profile any more, the profile allows no requests, or its grants are pruned.
"""


class SlotProbe:
    """Asks the storage of one bucket profile, in turns that `wait` gives. One thread uses it."""

    def __init__(self, context: Context, wait: Callable[[], None]) -> None:
        self._context = context
        self._wait = wait
        self._storages: dict[str, ProbedStorage | None] = {}
        self._is_readable: dict[str, bool] = {}

    def probe(self, slot: Slot) -> ProbedSlot | Unprobed:
        """Ask for the objects of a chunk that no source has told of, and record those found.

        Raises Transient, and records before what it found.
        """
        config = self._context.config.current()
        with read_transaction(self._context.engine) as connection:
            grants = read_chunk_grants(connection, *slot.key, config)
            if not grants:
                return "nobody_tells"
            numbers = [grant.item_number for grant in grants]
            if has_unfinished_uploads(connection, slot.batch_number, numbers):
                return "unfinished"
            stored = read_stored_sizes(connection, slot.batch_number, numbers)
            moved = has_moved(connection, slot.bucket, grants[0].issued_at)
        storage = self._storage(slot)
        if storage is None:
            return "nobody_tells"
        asked = [g for g in grants if g.has_known_key and g.item_number not in stored]
        unproven = self._ask(asked, storage)
        unclear = {grant.item_number for grant in asked} if moved else unproven
        return ProbedSlot(slot, grants, frozenset(unclear))

    def _ask(self, grants: Sequence[UsedGrant], storage: ProbedStorage) -> set[int]:
        """Ask for objects, and return the numbers of the items that may have stored something."""
        sightings: list[Sighting] = []
        unproven: set[int] = set()
        try:
            for grant in grants:
                self._wait()
                file = storage.files.find(grant.object_key)
                if isinstance(file, StoredFile):
                    self._is_readable[grant.tenant] = True
                    sightings.append(Sighting(grant, storage_name(storage.bucket), file))
                if not self._proves_unused(file, grant, storage):
                    unproven.add(grant.item_number)
        except Transient:
            record_sightings(sightings, self._context)
            raise
        record_sightings(sightings, self._context)
        return unproven

    def _storage(self, slot: Slot) -> ProbedStorage | None:
        if slot.tenant not in self._storages:
            now = self._context.now()
            self._storages[slot.tenant] = find_storage(slot.tenant, slot.bucket, self._context, now)
        return self._storages[slot.tenant]

    def _proves_unused(
        self, file: StoredFile | Missing, grant: UsedGrant, storage: ProbedStorage
    ) -> bool:
        """Return true if the answer proves that the grant stored nothing.

        An object of another grant proves it if it is older than this grant: otherwise it may have
        replaced one. The time of an object of parts is that of the start of its upload.
        """
        if file == "absent":
            return True
        if file == "hidden":
            if not self._can_read(grant.tenant, storage):
                raise UnreadableStorage
            return True
        if file.grant_id == grant_id(grant.batch_id, grant.item_number) or "-" in file.etag:
            return False
        return file.modified_at < grant.issued_at - CLOCK_SKEW

    def _can_read(self, tenant: str, storage: ProbedStorage) -> bool:
        """Return true if the credentials read objects of the tenant: hidden ones are then absent.

        Asks for an object that is known to be there, if nothing else has shown it yet.
        """
        if tenant not in self._is_readable:
            with read_transaction(self._context.engine) as connection:
                key = find_stored_key(connection, tenant, storage_name(storage.bucket))
            if key is not None:
                self._wait()
            is_readable = key is not None and isinstance(storage.files.find(key), StoredFile)
            self._is_readable[tenant] = is_readable
        return self._is_readable[tenant]
