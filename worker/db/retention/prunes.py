"""Records of removed grants, and the chunks that a further removal concerns."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, case, func, insert, select

from models import Batch, Chunk, Leaf, Prune
from worker.core.tree.records import CHUNK_KINDS, encode_record, entry_hash
from worker.db.retention.months import first_moment, format_month, parse_month
from worker.db.retention.old_uses import old_uses
from worker.db.tree.append import NewLeaf, append_leaf
from worker.db.tree.checkpoints import newest_checkpoint_sizes


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
    is_leaf = and_(
        Leaf.batch_number == Chunk.batch_number,
        Leaf.chunk_number == Chunk.chunk_number,
        Leaf.kind.in_(CHUNK_KINDS),
    )
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
        "use_groups": part.use_groups or None,
    }
    statement = insert(Prune).values(values).returning(Prune.prune_number)
    number = connection.scalar(statement)
    leaf = NewLeaf("prune", entry_hash([encode_record("prune", values)]), reference=str(number))
    append_leaf(connection, part.tenant, leaf)
