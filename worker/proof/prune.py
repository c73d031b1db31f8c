"""Removes grants and uses of old months; keeps their batches, chunks, leaves, trees of items."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    RowMapping,
    Select,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    text,
    true,
    tuple_,
    union_all,
)

from models import (
    Annotation,
    Base,
    Batch,
    Checkpoint,
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
from worker.base.database_engine import acquire_advisory_lock, read_transaction, write_transaction
from worker.base.month_partitions import Partition, default_months, has_partitions, read_partitions
from worker.ledger.merkle import CHUNK_KINDS, encode_record, entry_hash, items_edge
from worker.ledger.reservations import REMAINING
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.rules.annotations import SaltedTexts
from worker.shared.grant_items import is_in_chunk
from worker.shared.months import first_moment, format_month, parse_month
from worker.webhooks.batch_completion import PENDING

MAX_ROWS = 5_000
"""The number of rows that one transaction reads or deletes. On SQLite, other writers wait."""

_LOCK_TIME = "2s"
_IS_OWNER = text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass(:t)")
_READ_TRIGGER = text("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name = :name")
_DELETE_ITEMS = "DELETE FROM grants WHERE batch_number = ? AND item_number >= ? AND item_number < ?"


class PruneRefused(Exception):
    """The grants cannot be removed yet. Nothing was changed."""


class Blocker(NamedTuple):
    """Unfinished work: its number, the id of its first batch, and what it is and what ends it."""

    number: int
    batch_id: str
    what: str
    hint: str


class TenantPart(NamedTuple):
    """A tenant's part of a prune: numbers of chunks, of their items, of leaves of uses, and uses.

    uncovered is the number of leaves that no signed checkpoint covers, or that are missing.
    """

    tenant: str
    chunks: int
    items: int
    use_groups: int
    uses: int
    uncovered: int


class PrunePlan(NamedTuple):
    """The rows that a prune removes: grants of chunks issued, and uses recorded, before a month.

    partitions are dropped. pruned_before is what earlier prunes removed. is_begun is true if one
    of them was interrupted before it had deleted all rows.
    """

    before: int
    pruned_before: datetime | None
    parts: list[TenantPart]
    partitions: list[Partition]
    blockers: list[Blocker]
    is_begun: bool

    @property
    def items(self) -> int:
        """The number of grants that it removes."""
        return sum(part.items for part in self.parts)

    @property
    def uses(self) -> int:
        """The number of uses that it removes."""
        return sum(part.uses for part in self.parts)

    @property
    def bytes(self) -> int:
        """The size of the partitions that it drops."""
        return sum(partition.bytes for partition in self.partitions)

    @property
    def uncovered(self) -> list[str]:
        """The ids of the tenants whose log is not covered completely by a signed checkpoint."""
        return [part.tenant for part in self.parts if part.uncovered]

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to remove."""
        return not self.parts and not self.partitions and not self.is_begun


def plan_prune(connection: Connection, before: int, now: datetime) -> PrunePlan:
    """Plan to remove the grants of all chunks issued before a month. Raises PruneRefused."""
    moment, pruned = first_moment(before), _pruned_before(connection)
    return PrunePlan(
        before=before,
        pruned_before=pruned,
        parts=_tenant_parts(connection, pruned, moment),
        partitions=_partitions_to_drop(connection, before),
        blockers=_find_blockers(connection, moment, now),
        is_begun=pruned is not None and _has_rows(connection, min(moment, pruned)),
    )


def _pruned_before(connection: Connection) -> datetime | None:
    """Return the time before which the grants of all chunks were removed; None if none were.

    On SQLite, a removal that is going on has not reached all of them yet.
    """
    before = connection.scalar(select(func.max(Prune.before)))
    return None if before is None else first_moment(parse_month(before))


def _tenant_parts(
    connection: Connection, since: datetime | None, before: datetime
) -> list[TenantPart]:
    """Return what was issued or recorded before a time and is not pruned yet, by tenant id.

    A group of uses has one time, so it is removed as a whole, and its leaf needs no row any more.
    Uses of old grants that were recorded later stay until their month is removed.
    """

    def is_old(moment: Any) -> ColumnElement[bool]:
        return and_(moment < before, true() if since is None else moment >= since)

    numbers = ("chunks", "items", "use_groups", "uses")
    of_chunk = literal(1), Chunk.issued + Chunk.refused, literal(0), literal(0)
    chunks = (
        select(Batch.tenant, Leaf.leaf_number, *map(ColumnElement.label, of_chunk, numbers))
        .join(Chunk, Chunk.batch_number == Batch.batch_number)
        .outerjoin(Leaf, and_(_is_of_chunk(Leaf), Leaf.kind.in_(CHUNK_KINDS)))
        .where(is_old(Chunk.issued_at))
    )
    is_leaf = Leaf.tenant == Use.tenant, Leaf.kind == "use", Leaf.reference == Use.group_id
    groups = (
        select(Use.tenant, Leaf.leaf_number, literal(0), literal(0), literal(1), func.count())
        .outerjoin(Leaf, and_(*is_leaf))
        .where(is_old(Use.recorded_at))
        .group_by(Use.tenant, Use.group_id, Leaf.leaf_number)
    )
    rows = union_all(chunks, groups).subquery()
    signed = select(func.max(Checkpoint.size)).where(Checkpoint.tenant == rows.c.tenant)
    is_covered = rows.c.leaf_number < signed.scalar_subquery()  # NULL without a leaf
    sums = (func.sum(rows.c[name]) for name in numbers)
    uncovered = func.sum(case((is_covered, 0), else_=1))
    query = select(rows.c.tenant, *sums, uncovered).group_by(rows.c.tenant)
    return sorted(TenantPart(row[0], *map(int, row[1:])) for row in connection.execute(query))


def _is_of_chunk(table: Any) -> ColumnElement[bool]:
    """Return the condition that joins the rows of a table to their chunks."""
    return and_(Chunk.batch_number == table.batch_number, Chunk.chunk_number == table.chunk_number)


def _partitions_to_drop(connection: Connection, before: int) -> list[Partition]:
    if not has_partitions(connection):
        return []
    if not connection.scalar(_IS_OWNER, {"t": PARTITIONED}):
        raise PruneRefused("only the owner of the tables can drop partitions: connect as the owner")
    if any(month < before for month in default_months(connection)):
        raise PruneRefused(
            "grants of these months are in the default partition: run `python -m worker migrate`,"
            " which moves them"
        )
    partitions = read_partitions(connection)
    mixed = [part for part in partitions if part.first is None and part.contains(before)]
    if mixed:
        raise PruneRefused(
            "the first partition holds all months until the one in which the tables were created;"
            f" --before {format_month(mixed[0].end)} is the earliest month that drops it"
        )
    return [partition for partition in partitions if partition.end <= before]


_IS_LIVE = Reservation.expires_at > bindparam("now")
_WORK: tuple[tuple[Any, bool, ColumnElement[bool], str, str], ...] = (
    (
        *(Reservation, True, _IS_LIVE),
        *("chunks with grants that are still valid", "wait until they expire"),
    ),
    (
        *(Reservation, False, and_(_IS_LIVE, Reservation.chunk_number == REMAINING)),
        *("open batches", "wait until they close, or cancel them"),
    ),
    (
        *(Delivery, True, Delivery.state == PENDING),
        *("pending webhooks", "python -m worker webhooks list --state pending"),
    ),
    (
        *(Manifest, False, Manifest.state == PENDING),
        *("pending manifests", "python -m worker webhooks manifests --state pending"),
    ),
    (
        *(MultipartUpload, False, MultipartUpload.state == "open", "open multipart uploads"),
        "the upkeep worker aborts them when they have expired",
    ),
    (
        *(EndedSlot, True, true(), "chunks of upload slots that are not settled"),
        "the upkeep worker settles them when storage has reported what they stored",
    ),
)
"""Unfinished work: its table, true if its rows are of chunks, a condition, and the two texts."""


def _find_blockers(connection: Connection, before: datetime, now: datetime) -> list[Blocker]:
    """Find the unfinished work that needs grants of chunks issued before a time."""
    blockers = []
    for table, is_of_chunk, is_unfinished, what, hint in _WORK:
        is_old: ColumnElement[bool] = Batch.decided_at < before
        if is_of_chunk:
            is_own = _is_of_chunk(table), Chunk.issued_at < before
            is_old = select(Chunk.batch_number).where(*is_own).exists()
        query = select(func.count(), func.min(Batch.batch_id)).select_from(table)
        query = query.join(Batch, Batch.batch_number == table.batch_number)
        query = query.where(is_old, is_unfinished)
        number, batch_id = connection.execute(query, {"now": now}).one()
        if number:
            blockers.append(Blocker(number, batch_id, what, hint))
    return blockers


def _old_rows(before: datetime) -> dict[type[Base], Select[*tuple[Any, ...]]]:
    """Select what else than grants a prune removes: by table, the keys of rows of whole leaves.

    They are in the order of an index, so that each part begins where the last one ended.
    """
    chunk = Annotation.item_number // Batch.chunk_size
    is_annotated = and_(Chunk.batch_number == Batch.batch_number, Chunk.chunk_number == chunk)
    return {
        Use: select(Use.group_id).where(Use.recorded_at < before).order_by(Use.group_id),
        Settlement: (
            select(Settlement.batch_number, Settlement.chunk_number)
            .join(Chunk, _is_of_chunk(Settlement))
            .where(Chunk.issued_at < before)
            .order_by(Settlement.batch_number, Settlement.chunk_number)
        ),
        Annotation: (
            select(Annotation.batch_number, Annotation.item_number)
            .join(Batch, Batch.batch_number == Annotation.batch_number)
            .join(Chunk, is_annotated)
            .where(Chunk.issued_at < before)
            .order_by(Annotation.batch_number, Annotation.item_number)
        ),
    }


def _has_rows(connection: Connection, before: datetime) -> bool:
    """Return whether rows remain that a prune up to a time removes."""
    queries = list(_old_rows(before).values())
    if not has_partitions(connection):
        grants = select(Grant.batch_number).join(Batch, Batch.batch_number == Grant.batch_number)
        queries.append(grants.join(Chunk, is_in_chunk()).where(Chunk.issued_at < before))
    return any(connection.execute(query.limit(1)).first() is not None for query in queries)


def prune(
    engine: Engine,
    plan: PrunePlan,
    pruned_by: str,
    now: datetime,
    progress: Callable[[int], None],
) -> int:
    """Remove grants as planned; return their number.

    Before, it stores the tree of each chunk's items, in transactions of their own. Uses and
    settlements, on SQLite also grants, are deleted after the transaction that records the prune, in
    many further ones. After an interruption, the same call resumes. progress gets each number of
    items whose tree was stored, or which were removed. Raises PruneRefused if something changed
    since it was planned or if items are missing, Transient and DBAPIError.
    """
    moment, since = first_moment(plan.before), plan.pruned_before
    is_old = Chunk.issued_at < moment
    has_items = true() if since is None else Chunk.issued_at >= since
    has_edge = select(ItemEdge).where(_is_of_chunk(ItemEdge)).exists()
    _handle_chunks(engine, insert_item_edges, progress, is_old, has_items, ~has_edge)
    with write_transaction(engine) as connection:
        if is_dropping := has_partitions(connection):
            _lock_grants(connection)
        is_changed = _pruned_before(connection) != since
        if is_changed or _find_blockers(connection, moment, now):
            raise PruneRefused("something changed meanwhile: run the command again")
        for part in plan.parts:
            insert_prune(connection, part, plan.before, pruned_by, now)
        for partition in plan.partitions:
            name = connection.dialect.identifier_preparer.quote_identifier(partition.name)
            connection.exec_driver_sql(f"DROP TABLE {name}")
    removed = plan.items
    if not is_dropping:
        removed = _handle_chunks(engine, delete_items, progress, is_old)
    _delete_rest(engine, moment)
    return removed


class ChunkItems(NamedTuple):
    """A chunk, and the numbers and the number of its items."""

    batch_id: str
    batch_number: int
    chunk_number: int
    numbers: range
    items: int


def _handle_chunks(
    engine: Engine,
    handle: Callable[[Connection, list[ChunkItems]], int],
    progress: Callable[[int], None],
    *conditions: ColumnElement[bool],
) -> int:
    """Call a function with some chunks in each of many transactions, and add up what it returns."""
    total, after = 0, (-1, -1)
    while True:
        with write_transaction(engine) as connection:
            acquire_advisory_lock(connection, "item_edges")
            chunks = _read_chunks(connection, after, *conditions)
            if not chunks:
                return total
            number = handle(connection, chunks)
        total += number
        after = chunks[-1].batch_number, chunks[-1].chunk_number
        progress(number)


def _read_chunks(
    connection: Connection, after: tuple[int, int], *conditions: ColumnElement[bool]
) -> list[ChunkItems]:
    """Return the next chunks, with at most MAX_ROWS items, or one chunk.

    after is the batch and the number of the last chunk of the previous call.
    """
    items = Chunk.issued + Chunk.refused
    query = (
        select(Batch.batch_id, Chunk.batch_number, Chunk.chunk_number, Batch.chunk_size, items)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .where(tuple_(Chunk.batch_number, Chunk.chunk_number) > after, *conditions)
        .order_by(Chunk.batch_number, Chunk.chunk_number)
        .limit(MAX_ROWS)
    )
    chunks: list[ChunkItems] = []
    total = 0
    for batch_id, batch_number, chunk_number, size, number in connection.execute(query):
        total += number
        if total > MAX_ROWS and chunks:
            break
        numbers = range(chunk_number * size, (chunk_number + 1) * size)
        chunks.append(ChunkItems(batch_id, batch_number, chunk_number, numbers, number))
    return chunks


def insert_item_edges(connection: Connection, chunks: list[ChunkItems]) -> int:
    """Store the right edge of the tree of each chunk's items; return their number.

    Raises PruneRefused.
    """
    rows = []
    items, annotations = (_rows_by_chunk(connection, each, chunks) for each in (Grant, Annotation))
    for batch_id, batch_number, chunk_number, _, count in chunks:
        own = batch_number, chunk_number
        try:
            texts = {number: SaltedTexts(*each) for _, number, *each in annotations[own]}
            edge = items_edge((row[1:] for row in items[own]), texts)
        except (TypeError, AttributeError, ValueError):
            edge = None
        if edge is None or edge.size != count:
            raise PruneRefused(
                f"the items of chunk {chunk_number} of batch {batch_id} cannot be read, or are not"
                f" {count:,}, as it counts: `python -m worker audit verify` says more"
            )
        key = {"batch_number": batch_number, "chunk_number": chunk_number}
        rows.append(key | {"edge": edge.to_bytes()})
    connection.execute(insert(ItemEdge), rows)
    return sum(chunk.items for chunk in chunks)


def _rows_by_chunk(
    connection: Connection, table: type[Grant | Annotation], chunks: list[ChunkItems]
) -> defaultdict[tuple[int, int], list[Any]]:
    """Read the rows of items of chunks by batch and chunk number, with one query for all.

    Most chunks are small, and on SQLite other writers wait meanwhile.
    """
    position = tuple_(table.batch_number, table.item_number)
    first, last = chunks[0], chunks[-1]
    query = (
        select(*table.__table__.c)
        .where(position >= (first.batch_number, first.numbers.start))
        .where(position < (last.batch_number, last.numbers.stop))
        .order_by(table.batch_number, table.item_number)
    )
    sizes = {chunk.batch_number: len(chunk.numbers) for chunk in chunks}
    rows: defaultdict[tuple[int, int], list[Any]] = defaultdict(list)
    for row in connection.execute(query):
        if row.batch_number in sizes:
            rows[row.batch_number, row.item_number // sizes[row.batch_number]].append(row)
    return rows


def _lock_grants(connection: Connection) -> None:
    """Lock the partitioned table before anything else is locked, as every insertion does.

    Raises DBAPIError if a reader holds it for longer than two seconds: all others wait meanwhile.
    """
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIME}'")
    connection.exec_driver_sql(f"LOCK TABLE {PARTITIONED} IN ACCESS EXCLUSIVE MODE")


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
    number = connection.scalar(insert(Prune).values(values).returning(Prune.prune_number))
    leaf = NewLeaf("prune", entry_hash([encode_record("prune", values)]), reference=str(number))
    append_leaf(connection, part.tenant, leaf)


def delete_items(connection: Connection, chunks: list[ChunkItems]) -> int:
    """Delete the grants of chunks on SQLite; return how many there were."""
    ranges = [(chunk.batch_number, chunk.numbers.start, chunk.numbers.stop) for chunk in chunks]
    with _deletable(connection, PARTITIONED):
        return connection.exec_driver_sql(_DELETE_ITEMS, ranges).rowcount


def _delete_rest(engine: Engine, before: datetime) -> None:
    for table, old in _old_rows(before).items():
        is_next: ColumnElement[bool] = true()
        while True:
            # Not in the transaction that deletes: rows that are kept may be many.
            with read_transaction(engine) as connection:
                keys = connection.execute(old.where(is_next).limit(MAX_ROWS)).mappings().all()
            if not keys:
                break
            with write_transaction(engine) as connection:
                delete_old_rows(connection, table, keys)
            is_next = tuple_(*old.selected_columns) > tuple(keys[-1].values())
    # Objects that were deleted: their rows kept older reports from changing anything. Grants that
    # are named by reports of that time are removed.
    is_old = StoredObject.is_deleted, StoredObject.changed_at < before
    with write_transaction(engine) as connection:
        connection.execute(delete(StoredObject).where(*is_old))


def delete_old_rows(connection: Connection, table: type[Base], keys: Sequence[RowMapping]) -> None:
    """Delete the rows of a table with these keys."""
    own = [{f"old_{name}": value for name, value in key.items()} for key in keys]
    is_old = [getattr(table, name) == bindparam(f"old_{name}") for name in keys[0]]
    with _deletable(connection, table.__tablename__):
        connection.execute(delete(table).where(*is_old), own)


@contextmanager
def _deletable(connection: Connection, table: str) -> Iterator[None]:
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
