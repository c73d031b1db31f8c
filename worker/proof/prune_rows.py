"""Finds and removes grants and uses of old months, and records what was removed."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal_column,
    select,
    text,
    tuple_,
)

from models import (
    Annotation,
    Batch,
    Chunk,
    Delivery,
    EndedSlot,
    Grant,
    ItemEdge,
    Leaf,
    Manifest,
    MultipartUpload,
    Prune,
    Reservation,
    Settlement,
    StoredObject,
    Use,
)
from models.grants import PARTITIONED
from worker.base.inserts import insert_rows
from worker.base.month_partitions import Partition, first_moment, format_month, parse_month
from worker.core.annotations import SaltedTexts
from worker.core.decisions import GrantRow
from worker.ledger.merkle import CHUNK_KINDS, encode_record, entry_hash, items_edge
from worker.ledger.reservations import REMAINING
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.proof.checkpoint_rows import newest_checkpoint_sizes

_LOCK_TIME = "2s"
_IS_OWNER = text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(:t)")
_READ_TRIGGER = text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = :name")
_DELETE_ITEMS = "DELETE FROM grants WHERE batch_number = ? AND item_number >= ? AND item_number < ?"


class ChunkItems(NamedTuple):
    """A chunk, and the range of its item numbers."""

    batch_id: str
    batch_number: int
    chunk_number: int
    first: int
    stop: int
    items: int


def owns_grants(connection: Connection) -> bool:
    """Return whether the connection's role may drop partitions."""
    return bool(connection.scalar(_IS_OWNER, {"t": PARTITIONED}))


def lock_grants(connection: Connection) -> None:
    """Lock the partitioned table before anything else is locked, as every insertion does.

    Raises DBAPIError if a reader holds it for longer than two seconds: all others wait meanwhile.
    """
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIME}'")
    connection.exec_driver_sql(f"LOCK TABLE {PARTITIONED} IN ACCESS EXCLUSIVE MODE")


def drop_partition(connection: Connection, partition: Partition) -> None:
    """Drop a partition with its rows."""
    name = connection.dialect.identifier_preparer.quote_identifier(partition.name)
    connection.exec_driver_sql(f"DROP TABLE {name}")


def chunks_before(
    connection: Connection,
    before: datetime,
    after: tuple[int, int],
    max_items: int,
    *conditions: ColumnElement[bool],
) -> list[ChunkItems]:
    """Return the next chunks issued before a moment, with at most max_items items, or one chunk.

    after is the batch and the number of the last chunk of the previous call.
    """
    items = Chunk.issued + Chunk.refused
    query = (
        select(Batch.batch_id, Chunk.batch_number, Chunk.chunk_number, Batch.chunk_size, items)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .where(Chunk.issued_at < before, *conditions)
        .where(tuple_(Chunk.batch_number, Chunk.chunk_number) > after)
        .order_by(Chunk.batch_number, Chunk.chunk_number)
        .limit(max_items)
    )
    chunks: list[ChunkItems] = []
    total = 0
    for batch_id, batch_number, chunk_number, size, number in connection.execute(query):
        total += number
        if total > max_items and chunks:
            break
        first = chunk_number * size
        chunks.append(ChunkItems(batch_id, batch_number, chunk_number, first, first + size, number))
    return chunks


def chunks_without_edge(
    connection: Connection,
    since: datetime | None,
    before: datetime,
    after: tuple[int, int],
    max_items: int,
) -> list[ChunkItems]:
    """Return the next chunks as `chunks_before` does: those without a row in `item_edges`.

    since excludes older chunks, whose items were removed before.
    """
    conditions = [~select(ItemEdge).where(_is_of_chunk(ItemEdge)).exists()]
    if since is not None:
        conditions.append(Chunk.issued_at >= since)
    return chunks_before(connection, before, after, max_items, *conditions)


def _is_of_chunk(table: Any) -> ColumnElement[bool]:
    """Return the condition that joins the rows of a table to their chunks."""
    return and_(Chunk.batch_number == table.batch_number, Chunk.chunk_number == table.chunk_number)


def delete_chunks(connection: Connection, chunks: list[ChunkItems]) -> int:
    """Delete the grants of chunks on SQLite; return how many there were."""
    ranges = [(chunk.batch_number, chunk.first, chunk.stop) for chunk in chunks]
    with deletable(connection, PARTITIONED):
        return connection.exec_driver_sql(_DELETE_ITEMS, ranges).rowcount


@contextmanager
def deletable(connection: Connection, table: str) -> Iterator[None]:
    """Let rows of an append-only table be deleted in the block, which one transaction contains.

    On PostgreSQL only the owner of the table can do it, and nobody else writes to it meanwhile.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIME}'")
        connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER append_only")
        yield
        connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER append_only")
        return
    name = f"{table}_no_delete"
    trigger = connection.scalar(_READ_TRIGGER, {"name": name})
    if trigger is not None:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    yield
    if trigger is not None:
        connection.exec_driver_sql(trigger)


def has_grants(connection: Connection, before: datetime) -> bool:
    """Return whether a chunk that was issued before a moment still has grants."""
    first = Chunk.chunk_number * Batch.chunk_size
    query = (
        select(func.count())
        .select_from(Chunk)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .join(Grant, (Grant.batch_number == Chunk.batch_number) & (Grant.item_number == first))
        .where(Chunk.issued_at < before)
    )
    return bool(connection.scalar(query))


_IS_REMAINING = Reservation.chunk_number == REMAINING


class Blocker(NamedTuple):
    """Unfinished work: its number, the id of its first batch, and what it is and what ends it."""

    number: int
    batch_id: str
    what: str
    hint: str


def find_blockers(connection: Connection, before: datetime, now: datetime) -> list[Blocker]:
    """Find the unfinished work that needs grants of chunks issued before a moment."""
    is_old_batch = Batch.decided_at < before
    is_live = Reservation.expires_at > now
    queries: tuple[tuple[Any, str, str], ...] = (
        (
            _count_old(Reservation, _is_old_chunk(Reservation, before)).where(is_live),
            "chunks with grants that are still valid",
            "wait until they expire",
        ),
        (
            _count_old(Reservation, is_old_batch).where(is_live, _IS_REMAINING),
            "open batches",
            "wait until they close, or cancel them",
        ),
        (
            _count_old(Delivery, _is_old_chunk(Delivery, before)).where(
                Delivery.state == literal_column("'pending'")
            ),
            "pending webhooks",
            "python -m worker deliveries list --state pending",
        ),
        (
            _count_old(Manifest, is_old_batch).where(Manifest.state == literal_column("'pending'")),
            "pending manifests",
            "python -m worker deliveries manifests --state pending",
        ),
        (
            _count_old(MultipartUpload, is_old_batch).where(MultipartUpload.state == "open"),
            "open multipart uploads",
            "the upkeep worker aborts them when they have expired",
        ),
        (
            _count_old(EndedSlot, _is_old_chunk(EndedSlot, before)),
            "chunks of upload slots that are not settled",
            "the upkeep worker settles them when storage has told what they stored",
        ),
    )
    rows = [(connection.execute(query).one(), what, hint) for query, what, hint in queries]
    return [Blocker(row[0], row[1], what, hint) for row, what, hint in rows if row[0]]


def _count_old(table: Any, is_old: ColumnElement[bool]) -> Any:
    query = select(func.count(), func.min(Batch.batch_id)).select_from(table)
    return query.join(Batch, Batch.batch_number == table.batch_number).where(is_old)


def _is_old_chunk(table: Any, before: datetime) -> ColumnElement[bool]:
    return select(Chunk.batch_number).where(_is_of_chunk(table), Chunk.issued_at < before).exists()


_EDGE_COLUMNS = ("batch_number", "chunk_number", "edge")


class PruneRefused(Exception):
    """The grants cannot be removed yet. Nothing was changed."""


def insert_item_edges(connection: Connection, chunks: list[ChunkItems]) -> None:
    """Store the right edge of the tree of each chunk's items. Raises PruneRefused.

    The chunks are in the order of their batch and number, and there is at least one.
    """
    items, annotations = _read_items(connection, chunks), _read_annotations(connection, chunks)
    rows = []
    for chunk in chunks:
        found = items.get((chunk.batch_number, chunk.chunk_number), [])
        try:
            own = annotations[chunk.batch_number]
            edge = items_edge(found, own) if len(found) == chunk.items else None
        except (TypeError, AttributeError, ValueError):
            edge = None
        if edge is None:
            raise PruneRefused(
                f"the items of chunk {chunk.chunk_number} of batch {chunk.batch_id} cannot be read,"
                f" or are not {chunk.items:,}, as it counts: `python -m worker audit verify` says"
                " more"
            )
        rows.append((chunk.batch_number, chunk.chunk_number, edge.to_bytes()))
    insert_rows(connection, ItemEdge.__tablename__, _EDGE_COLUMNS, rows)


def _read_items(
    connection: Connection, chunks: list[ChunkItems]
) -> dict[tuple[int, int], list[GrantRow]]:
    """Read the items of chunks by batch and chunk number, with one query for all."""
    first, last = chunks[0], chunks[-1]
    position = tuple_(Grant.batch_number, Grant.item_number)
    query = (
        select(
            *(Grant.batch_number, Grant.item_number, Grant.object_key, Grant.code),
            *(Grant.detail, Grant.digest),
        )
        .where(position >= (first.batch_number, first.first))
        .where(position < (last.batch_number, last.stop))
        .order_by(Grant.batch_number, Grant.item_number)
    )
    sizes = {chunk.batch_number: chunk.stop - chunk.first for chunk in chunks}
    items: dict[tuple[int, int], list[GrantRow]] = {}
    for number, *values in connection.execute(query):
        if number in sizes:
            row = GrantRow(*values)
            items.setdefault((number, row.item_number // sizes[number]), []).append(row)
    return items


def _read_annotations(
    connection: Connection, chunks: list[ChunkItems]
) -> defaultdict[int, dict[int, SaltedTexts]]:
    """Read the texts about items of chunks, by batch and item number, with one query for all."""
    annotations: defaultdict[int, dict[int, SaltedTexts]] = defaultdict(dict)
    first, last = chunks[0], chunks[-1]
    position = tuple_(Annotation.batch_number, Annotation.item_number)
    query = (
        select(*Annotation.__table__.c)
        .where(position >= (first.batch_number, first.first))
        .where(position < (last.batch_number, last.stop))
    )
    for batch, item, *values in connection.execute(query):
        annotations[batch][item] = SaltedTexts(*values)
    return annotations


_PER_STATEMENT = 500


class OldUses(NamedTuple):
    """A tenant's uses that were recorded before a month: groups, rows, and their last leaf."""

    groups: int
    uses: int
    last_leaf: int | None


def old_uses(
    connection: Connection, since: datetime | None, before: datetime
) -> Mapping[str, OldUses]:
    """Count the uses that were recorded from a moment on, if it is given, and before another one.

    Returns them by tenant id. A group has one time, so it is removed as a whole, and its leaf needs
    no row any more. Uses of old grants that were recorded later stay until their month is removed.
    """
    groups = (
        select(Use.tenant, Use.group_id, func.count().label("uses"))
        .where(Use.recorded_at < before)
        .group_by(Use.tenant, Use.group_id)
    )
    if since is not None:
        groups = groups.where(Use.recorded_at >= since)
    group = groups.subquery()
    is_leaf = (
        (Leaf.tenant == group.c.tenant)
        & (Leaf.kind == "use")
        & (Leaf.reference == group.c.group_id)
    )
    query = (
        select(group.c.tenant, func.count(), func.sum(group.c.uses), func.max(Leaf.leaf_number))
        .select_from(group)
        .outerjoin(Leaf, is_leaf)
        .group_by(group.c.tenant)
    )
    return {row[0]: OldUses(row[1], int(row[2]), row[3]) for row in connection.execute(query)}


def has_old_uses(connection: Connection, before: datetime) -> bool:
    """Return whether rows beside those of grants remain that a prune up to a month removes."""
    uses = select(Use.fingerprint).where(Use.recorded_at < before)
    queries: list[Select[*tuple[Any, ...]]] = [
        *(uses, _old_settlements(before), _old_annotations(before)),
    ]
    return any(connection.execute(query.limit(1)).first() is not None for query in queries)


def old_groups(connection: Connection, before: datetime, max_uses: int) -> Iterator[list[str]]:
    """Yield the groups of uses recorded before a moment, in parts with about max_uses uses.

    Reads all of them first: the caller deletes each part in a transaction of its own.
    """
    query = (
        select(Use.group_id, func.count())
        .where(Use.recorded_at < before)
        .group_by(Use.group_id)
        .order_by(Use.group_id)
    )
    part, uses = list[str](), 0
    for group_id, number in connection.execute(query).all():
        if part and (uses + number > max_uses or len(part) == _PER_STATEMENT):
            yield part
            part, uses = [], 0
        part.append(group_id)
        uses += number
    if part:
        yield part


def delete_groups(connection: Connection, groups: list[str]) -> None:
    """Delete groups of uses."""
    with deletable(connection, Use.__tablename__):
        connection.execute(delete(Use).where(Use.group_id.in_(groups)))


def delete_settlements(connection: Connection, before: datetime) -> int:
    """Delete settlements of chunks issued before a moment; return how many, 0 if none is left."""
    return _delete_part(connection, Settlement, _old_settlements(before).limit(_PER_STATEMENT))


def delete_annotations(connection: Connection, before: datetime) -> int:
    """Delete texts about items of chunks issued before a moment, as `delete_settlements` does."""
    return _delete_part(connection, Annotation, _old_annotations(before).limit(_TEXTS_PER_DELETE))


_TEXTS_PER_DELETE = 5_000  # on PostgreSQL, each part waits for whoever inserts some


def _delete_part(
    connection: Connection,
    model: type[Settlement] | type[Annotation],
    query: Select[*tuple[Any, ...]],
) -> int:
    """Delete the rows whose keys a query reads, and return their number."""
    rows = connection.execute(query).mappings()
    keys = [{f"key_{name}": value for name, value in row.items()} for row in rows]
    if keys:
        columns = model.__table__.primary_key
        is_row = [column == bindparam(f"key_{column.name}") for column in columns]
        with deletable(connection, model.__tablename__):
            connection.execute(delete(model).where(*is_row), keys)
    return len(keys)


def delete_old_objects(connection: Connection, before: datetime) -> None:
    """Forget objects that were deleted before a moment.

    Their rows kept older reports from changing anything. Grants that are named by reports of that
    time are removed.
    """
    is_old = StoredObject.is_deleted, StoredObject.changed_at < before
    connection.execute(delete(StoredObject).where(*is_old))


def _old_settlements(before: datetime) -> Select[*tuple[Any, ...]]:
    query = select(Settlement.batch_number, Settlement.chunk_number)
    return query.join(Chunk, _is_of_chunk(Settlement)).where(Chunk.issued_at < before)


def _old_annotations(before: datetime) -> Select[*tuple[Any, ...]]:
    """Select in the order of the key, so that each part begins where the last one ended."""
    chunk = Annotation.item_number // Batch.chunk_size
    is_own = and_(Chunk.batch_number == Annotation.batch_number, Chunk.chunk_number == chunk)
    return (
        select(Annotation.batch_number, Annotation.item_number)
        .join(Batch, Batch.batch_number == Annotation.batch_number)
        .join(Chunk, is_own)
        .where(Chunk.issued_at < before)
        .order_by(Annotation.batch_number, Annotation.item_number)
    )


class TenantPart(NamedTuple):
    """A tenant's part of a prune: numbers of chunks, items and uses, and their last leaf.

    without_leaf is the number of chunks that no leaf covers. use_groups is the number of leaves
    that cover the uses.
    """

    tenant: str
    chunks: int
    items: int
    without_leaf: int
    last_leaf: int | None
    use_groups: int = 0
    uses: int = 0


def pruned_before(connection: Connection) -> datetime | None:
    """Return the moment before which the grants of all chunks were removed; None if none were.

    On SQLite, a removal that is going on has not reached all of them yet.
    """
    before = connection.scalar(select(func.max(Prune.before)))
    return None if before is None else first_moment(parse_month(before))


def tenant_parts(connection: Connection, before: datetime) -> list[TenantPart]:
    """Return what was issued or recorded before a moment and is not pruned yet, by tenant id."""
    pruned = pruned_before(connection)
    parts = {part.tenant: part for part in _chunk_parts(connection, pruned, before)}
    for tenant, uses in old_uses(connection, pruned, before).items():
        part = parts.get(tenant, TenantPart(tenant, 0, 0, 0, None))
        leaves = [leaf for leaf in (part.last_leaf, uses.last_leaf) if leaf is not None]
        last_leaf = max(leaves, default=None)
        parts[tenant] = part._replace(last_leaf=last_leaf, use_groups=uses.groups, uses=uses.uses)
    return sorted(parts.values())


def _chunk_parts(
    connection: Connection, pruned: datetime | None, before: datetime
) -> list[TenantPart]:
    is_leaf = _is_of_chunk(Leaf) & Leaf.kind.in_(CHUNK_KINDS)
    query = (
        select(
            Batch.tenant,
            func.count(),
            func.sum(Chunk.issued + Chunk.refused),
            func.sum(case((Leaf.leaf_number.is_(None), 1), else_=0)),
            func.max(Leaf.leaf_number),
        )
        .select_from(Chunk)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .outerjoin(Leaf, is_leaf)
        .where(Chunk.issued_at < before)
        .group_by(Batch.tenant)
    )
    if pruned is not None:
        query = query.where(Chunk.issued_at >= pruned)
    return [
        TenantPart(row[0], int(row[1]), int(row[2]), int(row[3]), row[4])
        for row in connection.execute(query)
    ]


def uncovered_tenants(connection: Connection, parts: list[TenantPart]) -> list[str]:
    """Return the ids of the tenants with a chunk that no signed checkpoint covers."""
    sizes = newest_checkpoint_sizes(connection)
    return [
        part.tenant
        for part in parts
        if part.without_leaf
        or part.last_leaf is None
        or part.last_leaf >= sizes.get(part.tenant, 0)
    ]


def insert_prune(
    connection: Connection, part: TenantPart, before: int, pruned_by: str, now: datetime
) -> None:
    """Record that a tenant's grants are removed, with a leaf in its tree."""
    values: dict[str, Any] = {
        "tenant": part.tenant,
        "before": format_month(before),
        "pruned_by": pruned_by,
        "pruned_at": now,
        "chunks": part.chunks,
        "items": part.items,
        "edges": part.chunks,
        "use_groups": part.use_groups,
    }
    statement = insert(Prune).values(values).returning(Prune.prune_number)
    number = connection.scalar(statement)
    leaf = NewLeaf("prune", entry_hash([encode_record("prune", values)]), reference=str(number))
    append_leaf(connection, part.tenant, leaf)
