"""Finds the grants that reports of uses name."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, select, tuple_

from models import Batch, Chunk, ConfigChange, Grant, Reissue
from valetkey.wire.grant_ids import grant_id, split_grant_id
from worker.core.tenants.config import TenantConfig
from worker.core.tenants.storage_names import qualified_name
from worker.core.uses.used_grant import UsedGrant

_PER_QUERY = 500  # ids in one query: SQLite builds a tree of tuples, at most 1,000 deep

# Read apart from the grants, so that the terms of a batch are decoded once.
_BATCHES = select(
    *(Batch.batch_number, Batch.batch_id, Batch.tenant, Batch.bucket, Batch.kind, Batch.terms),
    Batch.notify,
)
_COLUMNS = (
    *(Chunk.chunk_number, Chunk.issued_at, Chunk.expires_in, Chunk.access_key),
    *(Grant.batch_number, Grant.item_number, Grant.object_key, Grant.detail),
)
_FIRST_ITEM = Chunk.chunk_number * Batch.chunk_size
_QUERY = (
    select(*_COLUMNS)
    .select_from(Batch)
    .join(Grant, Grant.batch_number == Batch.batch_number)
    .join(
        Chunk,
        and_(
            Chunk.batch_number == Batch.batch_number,
            Grant.item_number >= _FIRST_ITEM,
            Grant.item_number < _FIRST_ITEM + Batch.chunk_size,
        ),
    )
    .where(Grant.digest.is_not(None))
)


def find_used_grants(
    connection: Connection, ids: Iterable[str], config: TenantConfig
) -> Mapping[str, list[UsedGrant]]:
    """Return the issued grants with these ids: several if tenants chose the same id for a batch.

    Ids that are none, or of no issued grant, are missing from the result.
    """
    names = sorted({name for text in ids for name in _split(text)})
    found: defaultdict[str, list[UsedGrant]] = defaultdict(list)
    buckets: dict[str, frozenset[str]] = {}
    for start in range(0, len(names), _PER_QUERY):
        rows = list(_read(connection, names[start : start + _PER_QUERY]))
        later_keys = _later_keys(connection, {row.batch_number for _, row in rows})
        for batch, row in rows:
            if batch.bucket not in buckets:
                buckets[batch.bucket] = real_buckets(connection, batch.bucket, config)
            grant = _used_grant(batch, row, buckets[batch.bucket])
            chunk = row.batch_number, row.chunk_number
            if row.access_key:
                keys = frozenset({row.access_key}) | later_keys[chunk]
                grant = grant._replace(access_keys=keys)
            found[grant_id(grant.batch_id, grant.item_number)].append(grant)
    return found


def _later_keys(
    connection: Connection, batches: Collection[int]
) -> Mapping[tuple[int, int], frozenset[str]]:
    """Return the access keys that signed chunks of these batches again, by batch and chunk."""
    query = select(Reissue.batch_number, Reissue.chunk_number, Reissue.access_key).distinct()
    found: defaultdict[tuple[int, int], frozenset[str]] = defaultdict(frozenset)
    if batches:
        for batch, chunk, key in connection.execute(query.where(Reissue.batch_number.in_(batches))):
            found[batch, chunk] |= {key}
    return found


def _split(text: str) -> Iterator[tuple[str, int]]:
    with suppress(ValueError):
        yield split_grant_id(text)


def _read(connection: Connection, names: Collection[tuple[str, int]]) -> Iterable[tuple[Any, Any]]:
    """Return the rows of batch and grant."""
    ids = {batch_id for batch_id, _ in names}
    batches: dict[int, Any] = {}
    by_id: defaultdict[str, list[int]] = defaultdict(list)
    for batch in connection.execute(_BATCHES.where(Batch.batch_id.in_(ids))):
        batches[batch.batch_number] = batch
        by_id[batch.batch_id].append(batch.batch_number)
    pairs = [(number, item) for batch_id, item in names for number in by_id[batch_id]]
    if not pairs:
        return ()
    key = tuple_(Grant.batch_number, Grant.item_number)
    rows = connection.execute(_QUERY.where(key.in_(pairs))).all()
    return [(batches[row.batch_number], row) for row in rows]


def read_chunk_grants(
    connection: Connection, batch_number: int, chunk_number: int, config: TenantConfig
) -> list[UsedGrant]:
    """Return the issued grants of a chunk, by item number; none if they were pruned."""
    query = _QUERY.where(Batch.batch_number == batch_number, Chunk.chunk_number == chunk_number)
    rows = connection.execute(query.order_by(Grant.item_number)).all()
    if not rows:
        return []
    batch = connection.execute(_BATCHES.where(Batch.batch_number == batch_number)).one()
    buckets = real_buckets(connection, batch.bucket, config)
    return [_used_grant(batch, row, buckets) for row in rows]


def real_buckets(connection: Connection, profile: str, config: TenantConfig) -> frozenset[str]:
    """Return the storage names of the buckets to which a profile leads or has led."""
    places = bucket_history(connection, profile, config)
    return frozenset(qualified_name(place.bucket, place.endpoint) for place in places)


class BucketPlace(NamedTuple):
    """A bucket to which a profile leads or has led, and its endpoint; None means the default."""

    bucket: str
    endpoint: str | None


def bucket_history(
    connection: Connection, profile: str, config: TenantConfig
) -> frozenset[BucketPlace]:
    """Return where a profile leads or has led, as far as that is recorded."""
    current = config.buckets.get(profile)
    values = {name: getattr(current, name, None) for name in BucketPlace._fields}
    paths = {f"buckets.{profile}.{name}": name for name in values}
    query = select(ConfigChange.changed_at, ConfigChange.path)
    query = query.add_columns(ConfigChange.before, ConfigChange.after)
    query = query.where(ConfigChange.path.in_(paths)).order_by(ConfigChange.change_number.desc())
    history = [dict(values)]
    # Fields that were changed by one command have one time.
    for _, group in groupby(connection.execute(query), key=lambda row: row.changed_at):
        changes = [(paths[row.path], row.before, row.after) for row in group]
        history.append(values | {name: after for name, _, after in changes})
        values |= {name: before for name, before, _ in changes}
        history.append(dict(values))
    return frozenset(
        BucketPlace(bucket, endpoint if isinstance(endpoint, str) else None)
        for bucket, endpoint in map(dict.values, history)
        if isinstance(bucket, str)
    )


def _used_grant(batch: Any, row: Any, buckets: frozenset[str]) -> UsedGrant:
    return UsedGrant(
        tenant=batch.tenant,
        batch_number=batch.batch_number,
        batch_id=batch.batch_id,
        chunk_number=row.chunk_number,
        item_number=row.item_number,
        kind=batch.kind,
        bucket=batch.bucket,
        real_buckets=buckets,
        object_key=row.object_key,
        issued_at=row.issued_at,
        expires_in=row.expires_in,
        terms=batch.terms if isinstance(batch.terms, dict) else {},
        detail=row.detail or {},
        notify=tuple(batch.notify or ()),
    )
