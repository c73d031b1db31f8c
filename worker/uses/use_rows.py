"""Finds the grants that reports name, and inserts and reads their uses, with their leaves."""

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    String,
    Text,
    and_,
    bindparam,
    case,
    func,
    select,
    tuple_,
)

from models import Batch, Chunk, ConfigChange, Grant, Reissue, Use
from valetkey.wire.grant_ids import split_grant_id
from worker.audit.grant_states import STORING
from worker.base.inserts import insert_statement
from worker.ledger.merkle import encode_record, entry_hash
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.rules.issued_grants import issued_kind, qualified_name
from worker.rules.tenant_config import TenantConfig
from worker.shared.grant_items import is_in_chunk
from worker.shared.pages import in_parts
from worker.uses.use_reports import UsedGrant, UseReport
from worker.uses.use_rules import Judgement

_GRANTS = (
    select(
        *(Batch.tenant, Batch.batch_number, Batch.batch_id, Chunk.chunk_number, Grant.item_number),
        *(Batch.kind, Batch.bucket, Grant.object_key, Chunk.issued_at, Chunk.expires_in),
        *(Batch.terms, Grant.detail, Batch.notify, Batch.callback, Chunk.access_key),
    )
    .select_from(Batch)
    .join(Grant, Grant.batch_number == Batch.batch_number)
    .join(Chunk, is_in_chunk())
    .where(Grant.digest.is_not(None))
    .order_by(Batch.batch_number, Grant.item_number)
)


def find_used_grants(
    connection: Connection, ids: Iterable[str], config: TenantConfig
) -> Mapping[str, list[UsedGrant]]:
    """Return the issued grants with these ids: several if tenants chose the same id for a batch.

    Ids that are none, or of no issued grant, are missing from the result.
    """
    names = sorted({name for text in ids for name in _split(text)})
    found: defaultdict[str, list[UsedGrant]] = defaultdict(list)
    for part in in_parts(names):
        numbers: defaultdict[str, list[int]] = defaultdict(list)
        query = select(Batch.batch_id, Batch.batch_number)
        query = query.where(Batch.batch_id.in_({batch_id for batch_id, _ in part}))
        for batch_id, number in connection.execute(query):
            numbers[batch_id].append(number)
        pairs = [(number, item) for batch_id, item in part for number in numbers[batch_id]]
        is_named = tuple_(Grant.batch_number, Grant.item_number).in_(pairs)
        for grant in _read_grants(connection, config, is_named):
            found[grant.id].append(grant)
    return found


def _split(text: str) -> Iterator[tuple[str, int]]:
    with suppress(ValueError):
        yield split_grant_id(text)


def read_chunk_grants(
    connection: Connection, batch_number: int, chunk_number: int, config: TenantConfig
) -> list[UsedGrant]:
    """Return the issued grants of a chunk, by item number; none if they were pruned."""
    is_of_chunk = Batch.batch_number == batch_number, Chunk.chunk_number == chunk_number
    return _read_grants(connection, config, *is_of_chunk)


def _read_grants(
    connection: Connection, config: TenantConfig, *conditions: ColumnElement[bool]
) -> list[UsedGrant]:
    rows = connection.execute(_GRANTS.where(*conditions)).all()
    profiles = {row.bucket for row in rows}
    buckets = {name: real_buckets(connection, name, config) for name in profiles}
    later_keys = _later_keys(connection, {row.batch_number for row in rows})
    return [_used_grant(row, buckets[row.bucket], later_keys) for row in rows]


def _used_grant(
    row: Any, buckets: frozenset[str], later_keys: Mapping[tuple[int, int], set[str]]
) -> UsedGrant:
    values = row._asdict()
    access_key = values.pop("access_key")
    keys = {access_key} | later_keys[row.batch_number, row.chunk_number] if access_key else ()
    values |= {
        "kind": issued_kind(row.kind, row.detail),
        "real_buckets": buckets,
        "terms": row.terms or {},
        "detail": row.detail or {},
        "notify": tuple(row.notify or ()),
        "access_keys": frozenset(keys),
    }
    return UsedGrant(**values)


def _later_keys(
    connection: Connection, batches: Collection[int]
) -> Mapping[tuple[int, int], set[str]]:
    """Return the access keys that signed chunks of these batches again, by batch and chunk."""
    query = select(Reissue.batch_number, Reissue.chunk_number, Reissue.access_key).distinct()
    found: defaultdict[tuple[int, int], set[str]] = defaultdict(set)
    for batch, chunk, key in connection.execute(query.where(Reissue.batch_number.in_(batches))):
        found[batch, chunk].add(key)
    return found


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
# With a parameter for each value, the same INSERT of a thousand rows took five times as long.
_ARRAYS = select(*(func.unnest(bindparam(n, type_=ARRAY(type_))) for n, type_ in _TYPES.items()))


class JudgedUse(NamedTuple):
    """A report, the grant that it is about, the verdict, and the fingerprint of the use.

    is_last is true for the last use that is recorded of its grant. charged_bytes are those that the
    use costs.
    """

    report: UseReport
    grant: UsedGrant
    judgement: Judgement
    fingerprint: bytes
    is_last: bool = False
    charged_bytes: int | None = None


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
    """Insert the uses that no other process has recorded meanwhile, and return them by tenant.

    The caller appends the leaves at the end of the transaction, with `append_use_leaves`. Rows are
    inserted in the order of their fingerprints, so that processes that record the same uses
    wait for each other instead of ending in a deadlock.
    """
    if not uses:
        return []
    groups = defaultdict[str, str](new_group_id)
    ordered = sorted(uses, key=lambda use: use.fingerprint)
    rows = {use.fingerprint: _use_values(use, now, groups[use.grant.tenant]) for use in ordered}
    new = _insert_new(connection, list(rows.values()))
    by_tenant: defaultdict[str, list[JudgedUse]] = defaultdict(list)
    for use in ordered:  # the order that the records of a leaf have
        if use.fingerprint in new:
            by_tenant[use.grant.tenant].append(use)
    return [
        InsertedUses(tenant, groups[tenant], of_tenant, _leaf(of_tenant, rows, groups[tenant]))
        for tenant, of_tenant in sorted(by_tenant.items())
    ]


def _insert_new(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> set[bytes]:
    """Insert the rows that are new, in their order, and return their fingerprints."""
    statement: Any = insert_statement(Use, connection.dialect.name)
    values: Any = rows
    if connection.dialect.name != "sqlite":
        statement = statement.from_select(list(_TYPES), _ARRAYS)
        values = {name: [row[name] for row in rows] for name in _TYPES}
    statement = statement.on_conflict_do_nothing(index_elements=["fingerprint"])
    return set(connection.scalars(statement.returning(Use.fingerprint), values))


def _leaf(
    uses: Iterable[JudgedUse], rows: Mapping[bytes, Mapping[str, Any]], group_id: str
) -> NewLeaf:
    records = [
        encode_record("use", rows[use.fingerprint], batch_id=use.grant.batch_id) for use in uses
    ]
    return NewLeaf("use", entry_hash(records), reference=group_id)


def _use_values(use: JudgedUse, now: datetime, group_id: str) -> dict[str, Any]:
    values = {name: getattr(use.report, name) for name in _FROM_REPORT}
    for name, length in _LENGTHS.items():
        values[name] = values[name] and values[name][:length]
    return values | {
        "tenant": use.grant.tenant,
        "batch_number": use.grant.batch_number,
        "item_number": use.grant.item_number,
        "verdict": use.judgement.verdict,
        "problem": use.judgement.problem,
        "charged_bytes": use.charged_bytes,
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
    connection: Connection, uses: Sequence[JudgedUse], ignored: Counter[str]
) -> list[JudgedUse]:
    """Return the uses that are to be recorded, and count why the others are not."""
    known = _read_known(connection, {use.fingerprint for use in uses})
    # Each download is of a request that storage counted.
    counts = _count_uses(connection, {u.grant.item for u in uses if u.report.event != "downloaded"})
    kept: list[JudgedUse] = []
    for use in uses:
        item = use.grant.item
        if use.fingerprint in known:
            ignored["known"] += 1
        elif use.report.event != "downloaded" and counts[item] >= MAX_USES:
            ignored["too_many_uses"] += 1
        else:
            known.add(use.fingerprint)
            counts[item] += use.report.event != "downloaded"
            kept.append(use._replace(is_last=counts[item] == MAX_USES))
    return kept


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

    It is unknown if a source reported none, or if there were more uses than are recorded. With
    settled_at, these are the sizes that were known when the chunk was settled.
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
