"""Finds and removes uses and settlements of old months, a limited number in one transaction."""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, delete, func, select, tuple_

from models import Chunk, Leaf, Settlement, StoredObject, Use
from worker.db.retention.removal import deletable

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
    """Return whether uses or settlements remain that a prune up to a month removes."""
    uses = select(Use.fingerprint).where(Use.recorded_at < before)
    queries: tuple[Select[*tuple[Any, ...]], ...] = (uses, _old_settlements(before))
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
    rows = connection.execute(_old_settlements(before).limit(_PER_STATEMENT)).all()
    if rows:
        key = tuple_(Settlement.batch_number, Settlement.chunk_number)
        with deletable(connection, Settlement.__tablename__):
            connection.execute(delete(Settlement).where(key.in_([tuple(row) for row in rows])))
    return len(rows)


def delete_old_objects(connection: Connection, before: datetime) -> None:
    """Forget objects that were deleted before a moment.

    Their rows kept older reports from changing anything. Grants that are named by reports of that
    time are removed.
    """
    is_old = StoredObject.is_deleted, StoredObject.changed_at < before
    connection.execute(delete(StoredObject).where(*is_old))


def _old_settlements(before: datetime) -> Select[*tuple[Any, ...]]:
    return (
        select(Settlement.batch_number, Settlement.chunk_number)
        .join(
            Chunk,
            (Chunk.batch_number == Settlement.batch_number)
            & (Chunk.chunk_number == Settlement.chunk_number),
        )
        .where(Chunk.issued_at < before)
    )
