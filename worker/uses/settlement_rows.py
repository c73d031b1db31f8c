"""Reads what ended upload slots stored, inserts settlements, and charges uses learned of later."""

from collections import defaultdict
from collections.abc import Collection, Container, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import NamedTuple

from sqlalchemy import Connection, and_, case, func, insert, select, tuple_

from models import ConfigChange, Denial, MultipartUpload, Settlement, StoredObject, Use
from worker.base.pages import format_items, in_parts, parse_items
from worker.core.issued_grants import UsedGrant
from worker.ledger.merkle import encode_record, entry_hash
from worker.ledger.tree_leaves import NewLeaf
from worker.uses.stored_objects import ChunkKey
from worker.uses.use_rows import MAX_USES, JudgedUse
from worker.uses.use_rules import STORING, SettledChunk, kept_bytes

_CHUNK_KEY = Settlement.batch_number, Settlement.chunk_number
_CHUNK = tuple_(*_CHUNK_KEY)


def read_stored_sizes(
    connection: Connection,
    batch_number: int,
    items: Collection[int],
    settled_at: datetime | None = None,
) -> Mapping[int, int | None]:
    """Return the largest size that each item stored, by item number; None if it is not known.

    It is not if a source told none, or if there were more uses than are recorded. With settled_at,
    these are the sizes that were known when the chunk was settled.
    """
    if not items:
        return {}
    is_storing = Use.event.in_(STORING)
    stored = func.sum(case((is_storing, 1), else_=0))
    known = func.sum(case((and_(is_storing, Use.size.is_not(None)), 1), else_=0))
    query = (
        select(
            *(Use.item_number, func.max(case((is_storing, Use.size))).label("size")),
            and_(known == stored, func.count() < MAX_USES).label("is_known"),
        )
        .where(Use.batch_number == batch_number, Use.event != "downloaded")
        .where(Use.item_number >= min(items), Use.item_number <= max(items))
        .group_by(Use.item_number)
        .having(stored > 0)
    )
    if settled_at is not None:
        query = query.where(Use.recorded_at <= settled_at, Use.charged_bytes.is_(None))
    return {
        row.item_number: int(row.size) if row.is_known else None
        for row in connection.execute(query)
    }


def has_unfinished_uploads(
    connection: Connection, batch_number: int, items: Collection[int]
) -> bool:
    """Return true if the abort of a multipart upload of these items is still to come."""
    query = select(MultipartUpload.item_number).where(
        MultipartUpload.batch_number == batch_number,
        MultipartUpload.item_number >= min(items),
        MultipartUpload.item_number <= max(items),
        MultipartUpload.state != "closed",
    )
    return connection.execute(query.limit(1)).first() is not None


def find_stored_key(connection: Connection, tenant: str, bucket: str) -> str | None:
    """Return the key of an object that one of a tenant's grants stored in a real bucket."""
    query = select(StoredObject.object_key).where(
        StoredObject.bucket == bucket,
        StoredObject.tenant == tenant,
        StoredObject.is_deleted.is_(False),
    )
    return connection.scalar(query.limit(1))


def has_denials(connection: Connection, storage: str) -> bool:
    """Return true if a revocation denies objects in the policy of the bucket of this name."""
    query = select(Denial.sid).where(Denial.storage == storage)
    return connection.execute(query.limit(1)).first() is not None


def has_moved(connection: Connection, profile: str, since: datetime) -> bool:
    """Return true if a bucket profile has led to other storage at some moment since a time."""
    paths = [f"buckets.{profile}.{name}" for name in ("bucket", "endpoint")]
    query = select(ConfigChange.change_number).where(
        ConfigChange.changed_at >= since, ConfigChange.path.in_(paths)
    )
    return connection.execute(query.limit(1)).first() is not None


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


class _Settled(NamedTuple):
    """The numbers of the unused items of a chunk, and when it was settled."""

    unused: Collection[int]
    settled_at: datetime


def _read_settled(
    connection: Connection, chunks: Collection[ChunkKey]
) -> Mapping[ChunkKey, _Settled]:
    """Return the settlements of chunks that gave bytes back."""
    query = select(*_CHUNK_KEY, Settlement.unused, Settlement.settled_at)
    query = query.where(Settlement.returned_bytes > 0)
    found: dict[ChunkKey, _Settled] = {}
    for part in in_parts(sorted(chunks)):
        for batch, chunk, unused, settled_at in connection.execute(query.where(_CHUNK.in_(part))):
            items = frozenset(chain.from_iterable(parse_items(unused)))
            found[batch, chunk] = _Settled(items, settled_at)
    return found


def price_late_uses(
    connection: Connection,
    uses: Sequence[JudgedUse],
    unsettled: Container[ChunkKey],
    last: Collection[bytes],
) -> list[JudgedUse]:
    """Return the uses with the bytes that each costs, None for one that costs nothing.

    A use costs what its object has more than what the settlement and earlier uses left charged. The
    last one that is recorded of a grant, by its fingerprint, costs all that the grant may still
    store: of those after it nothing is known.
    """
    suspects = [use for use in uses if _may_cost(use, last) and use.grant.chunk not in unsettled]
    kept = _read_kept(connection, suspects) if suspects else {}
    charged: list[JudgedUse] = []
    for use in uses:
        size = kept_bytes(
            None if _is_last(use, last) else use.report.size, use.grant.reserved_bytes
        )
        known = kept.get(use.grant.item, size)
        if _may_cost(use, last) and size > known:
            kept[use.grant.item] = size
            charged.append(use._replace(charged_bytes=size - known))
        else:
            charged.append(use)
    return charged


def _read_kept(connection: Connection, uses: Collection[JudgedUse]) -> dict[tuple[int, int], int]:
    """Return the bytes that are still charged for the items of chunks that got some back.

    They are what the settlement left, and what late uses were charged since.
    """
    by_chunk: defaultdict[ChunkKey, dict[int, UsedGrant]] = defaultdict(dict)
    for use in uses:
        by_chunk[use.grant.chunk][use.grant.item_number] = use.grant
    kept: dict[tuple[int, int], int] = {}
    for chunk, settled in _read_settled(connection, by_chunk.keys()).items():
        batch_number, grants = chunk[0], by_chunk[chunk]
        stored = read_stored_sizes(connection, batch_number, grants, settled.settled_at)
        charged = _read_charged(connection, batch_number, grants)
        for number, grant in grants.items():
            size = stored.get(number, 0 if number in settled.unused else None)
            late = charged.get(number, 0)
            kept[grant.item] = kept_bytes(size, grant.reserved_bytes) + late
    return kept


def _read_charged(
    connection: Connection, batch_number: int, items: Collection[int]
) -> Mapping[int, int]:
    query = (
        select(Use.item_number, func.sum(Use.charged_bytes).label("size"))
        .where(Use.batch_number == batch_number, Use.charged_bytes.is_not(None))
        .where(Use.item_number.in_(items))
        .group_by(Use.item_number)
    )
    return {row.item_number: int(row.size) for row in connection.execute(query)}


def _may_cost(use: JudgedUse, last: Collection[bytes]) -> bool:
    return use.grant.has_known_key and (use.report.event in STORING or _is_last(use, last))


def _is_last(use: JudgedUse, last: Collection[bytes]) -> bool:
    # Hardly any grant has as many uses: hash only then.
    return bool(last) and use.fingerprint in last
