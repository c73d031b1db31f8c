"""Finds the grants that reports name, and inserts and reads their uses, with their leaves."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, Connection, String, Text, and_, bindparam, case, func, select, tuple_

from models import Batch, Chunk, ConfigChange, Grant, Reissue, Use
from valetkey.wire.grant_ids import split_grant_id
from worker.base.inserts import insert_statement
from worker.base.pages import in_parts
from worker.core.issued_grants import UsedGrant, UseReport, qualified_name
from worker.core.tenant_config import TenantConfig
from worker.ledger.chunk_items import is_in_chunk
from worker.ledger.merkle import encode_record, entry_hash
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.uses.use_rules import STORING, Judgement, use_fingerprint

# Read apart from the grants, so that the terms of a batch are decoded once.
_BATCHES = select(
    *(Batch.batch_number, Batch.batch_id, Batch.tenant, Batch.bucket, Batch.kind, Batch.terms),
    Batch.notify,
)
_GRANT_COLUMNS = (
    *(Chunk.chunk_number, Chunk.issued_at, Chunk.expires_in, Chunk.access_key),
    *(Grant.batch_number, Grant.item_number, Grant.object_key, Grant.detail),
)
_GRANT_QUERY = (
    select(*_GRANT_COLUMNS)
    .select_from(Batch)
    .join(Grant, Grant.batch_number == Batch.batch_number)
    .join(Chunk, is_in_chunk())
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
    for part in in_parts(names):
        rows = _read_grants(connection, part)
        later_keys = _later_keys(connection, {row.batch_number for _, row in rows})
        for batch, row in rows:
            if batch.bucket not in buckets:
                buckets[batch.bucket] = real_buckets(connection, batch.bucket, config)
            grant = _used_grant(batch, row, buckets[batch.bucket])
            if row.access_key:
                keys = {row.access_key} | later_keys[grant.chunk]
                grant = grant._replace(access_keys=frozenset(keys))
            found[grant.id].append(grant)
    return found


def _later_keys(
    connection: Connection, batches: Collection[int]
) -> Mapping[tuple[int, int], set[str]]:
    """Return the access keys that signed chunks of these batches again, by batch and chunk."""
    query = select(Reissue.batch_number, Reissue.chunk_number, Reissue.access_key).distinct()
    found: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
    if batches:
        for batch, chunk, key in connection.execute(query.where(Reissue.batch_number.in_(batches))):
            found[batch, chunk].add(key)
    return found


def _split(text: str) -> Iterator[tuple[str, int]]:
    with suppress(ValueError):
        yield split_grant_id(text)


def _read_grants(
    connection: Connection, names: Collection[tuple[str, int]]
) -> list[tuple[Any, Any]]:
    ids = {batch_id for batch_id, _ in names}
    batches: dict[int, Any] = {}
    by_id: defaultdict[str, list[int]] = defaultdict(list)
    for batch in connection.execute(_BATCHES.where(Batch.batch_id.in_(ids))):
        batches[batch.batch_number] = batch
        by_id[batch.batch_id].append(batch.batch_number)
    pairs = [(number, item) for batch_id, item in names for number in by_id[batch_id]]
    if not pairs:
        return []
    key = tuple_(Grant.batch_number, Grant.item_number)
    rows = connection.execute(_GRANT_QUERY.where(key.in_(pairs))).all()
    return [(batches[row.batch_number], row) for row in rows]


def read_chunk_grants(
    connection: Connection, batch_number: int, chunk_number: int, config: TenantConfig
) -> list[UsedGrant]:
    """Return the issued grants of a chunk, by item number; none if they were pruned."""
    query = _GRANT_QUERY.where(
        Batch.batch_number == batch_number, Chunk.chunk_number == chunk_number
    )
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


_FROM_REPORT = (
    *("event", "source", "occurred_at", "size", "etag", "version", "checksum", "content_type"),
    *("remote_address", "user_agent"),
)
_LENGTHS = {"etag": 128, "checksum": 128, "content_type": 255}
_LENGTHS |= {"version": 1_024, "remote_address": 64, "user_agent": 256}

# A foreign key gets its type when the table that it refers to is loaded, which may be later.
_TYPES = {column.name: column.type for column in Use.__table__.columns}
_TYPES["batch_number"] = Batch.batch_number.type
# A cast to VARCHAR(n) would cut a value off, which then differs from its leaf. TEXT is refused.
_TYPES |= {name: Text() for name, type_ in _TYPES.items() if isinstance(type_, String)}


def _if_new(statement: Any) -> Any:
    statement = statement.on_conflict_do_nothing(index_elements=["fingerprint"])
    return statement.returning(Use.fingerprint)


_INSERT_ROWS = _if_new(insert_statement(Use, "sqlite"))
# With a parameter for each value, the same INSERT of a thousand rows took five times as long.
_ARRAYS = select(*(func.unnest(bindparam(n, type_=ARRAY(type_))) for n, type_ in _TYPES.items()))
_INSERT_ARRAYS = _if_new(insert_statement(Use, "postgresql").from_select(list(_TYPES), _ARRAYS))


class JudgedUse(NamedTuple):
    """A report, the grant that it is about, the verdict, and the bytes that the use costs."""

    report: UseReport
    grant: UsedGrant
    judgement: Judgement
    charged_bytes: int | None = None

    @property
    def fingerprint(self) -> bytes:
        """The fingerprint that identifies the use."""
        return use_fingerprint(self.report, self.grant)


class InsertedUses(NamedTuple):
    """The uses of one tenant that a transaction inserted, their group, and their leaf."""

    tenant: str
    group_id: str
    uses: Sequence[JudgedUse]
    leaf: NewLeaf


def insert_uses(
    connection: Connection,
    uses: Sequence[JudgedUse],
    now: datetime,
    new_group_id: Callable[[], str],
) -> list[InsertedUses]:
    """Insert the uses that are not recorded yet, and return them by tenant.

    The caller appends the leaves at the end of the transaction, with `append_use_leaves`. Rows are
    inserted in the order of their fingerprints, so that processes that are told of the same uses
    wait for each other instead of ending in a deadlock.
    """
    groups = defaultdict[str, str](new_group_id)
    told: dict[bytes, tuple[JudgedUse, dict[str, Any]]] = {}
    for use in uses:
        row = _use_values(use, now, groups[use.grant.tenant])
        told.setdefault(row["fingerprint"], (use, row))
    if not told:
        return []
    inserted = _insert_new(connection, [told[fingerprint][1] for fingerprint in sorted(told)])
    # The rows keep the order of the fingerprints, which the records of a leaf have.
    new = [(told[mark][0].grant.tenant, *told[mark]) for mark in sorted(inserted)]
    result = []
    for tenant, group in groupby(sorted(new, key=itemgetter(0)), key=itemgetter(0)):
        of_tenant = list(group)
        records = [
            encode_record("use", row, batch_id=use.grant.batch_id) for _, use, row in of_tenant
        ]
        leaf = NewLeaf("use", entry_hash(records), reference=groups[tenant])
        result.append(InsertedUses(tenant, groups[tenant], [use for _, use, _ in of_tenant], leaf))
    return result


def _insert_new(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> set[bytes]:
    """Insert the rows that are new, in their order, and return their fingerprints."""
    if connection.dialect.name == "sqlite":
        return set(connection.scalars(_INSERT_ROWS, rows))
    arrays = {name: [row[name] for row in rows] for name in _TYPES}
    return set(connection.scalars(_INSERT_ARRAYS, arrays))


def _use_values(use: JudgedUse, now: datetime, group_id: str) -> dict[str, Any]:
    report, grant, judgement, charged_bytes = use
    told = {name: getattr(report, name) for name in _FROM_REPORT}
    for name, length in _LENGTHS.items():
        told[name] = told[name] and told[name][:length]
    return told | {
        "tenant": grant.tenant,
        "batch_number": grant.batch_number,
        "item_number": grant.item_number,
        "verdict": judgement.verdict,
        "problem": judgement.problem,
        "charged_bytes": charged_bytes,
        "recorded_at": now,
        "fingerprint": use.fingerprint,
        "group_id": group_id,
    }


def append_use_leaves(connection: Connection, inserted: Sequence[InsertedUses]) -> None:
    """Append the leaves of inserted uses: the last statements of the transaction."""
    for uses in inserted:  # in the order of the tenants, to avoid deadlocks
        append_leaf(connection, uses.tenant, uses.leaf)


MAX_USES = 1_000
"""The largest number of uses of a grant that are recorded, downloads apart.

A form may be used as often as its client likes, and each use is a row, a part of each status and of
each webhook. The newest object of a key is kept up to date all the same.
"""


def leave_out_excess(
    connection: Connection, uses: Sequence[JudgedUse]
) -> tuple[list[JudgedUse], set[bytes]]:
    """Return the uses without those that are more than a grant may have.

    The second value has the fingerprints of the last uses that are recorded of their grants. Uses
    that are recorded already count once.
    """
    # Each download is of a request that storage counted.
    limited = [use for use in uses if use.report.event != "downloaded"]
    counts = _count_uses(connection, {use.grant.item for use in limited})
    highest = counts + Counter(use.grant.item for use in limited)
    near = {use.fingerprint for use in limited if highest[use.grant.item] >= MAX_USES}
    if not near:
        return list(uses), set()
    known = _read_known(connection, near)
    kept: list[JudgedUse] = []
    last: set[bytes] = set()
    for use in uses:
        mark, item = use.fingerprint, use.grant.item
        if mark in near and mark not in known:
            known.add(mark)
            counts[item] += 1
            if counts[item] == MAX_USES:
                last.add(mark)
        if mark not in near or counts[item] <= MAX_USES:
            kept.append(use)
    return kept, last


def _read_known(connection: Connection, fingerprints: Iterable[bytes]) -> set[bytes]:
    known: set[bytes] = set()
    for part in in_parts(sorted(fingerprints)):
        query = select(Use.fingerprint).where(Use.fingerprint.in_(part))
        known.update(connection.scalars(query))
    return known


def _count_uses(
    connection: Connection, items: Iterable[tuple[int, int]]
) -> Counter[tuple[int, int]]:
    key = Use.batch_number, Use.item_number
    query = select(*key, func.count()).where(Use.event != "downloaded").group_by(*key)
    counts: Counter[tuple[int, int]] = Counter()
    for part in in_parts(sorted(items)):
        rows = connection.execute(query.where(tuple_(*key).in_(part)))
        counts |= Counter({(batch, item): number for batch, item, number in rows})
    return counts


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
        .where(Use.item_number.between(min(items), max(items)))
        .group_by(Use.item_number)
        .having(stored > 0)
    )
    if settled_at is not None:
        query = query.where(Use.recorded_at <= settled_at, Use.charged_bytes.is_(None))
    return {
        row.item_number: int(row.size) if row.is_known else None
        for row in connection.execute(query)
    }
