"""Heads of trees, their signed checkpoints, and where those were published."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, Row, and_, func, select

from models import Checkpoint, CheckpointPublication, Leaf, TenantIdentity, TreeHead
from worker.base.inserts import insert_once, insert_statement
from worker.ledger.merkle import CONFIG_LOG
from worker.proof.checkpoint_format import Fork, readable_forks
from worker.shared.tenant_history import find_tenant_ids, is_of_tenant

_PAGE_LEAVES = 10_000
SIGNING = ""
"""The destination of rows about the signing of checkpoints."""


class StoredCheckpoint(NamedTuple):
    """A signed checkpoint of a tenant's tree, and the right edge at its size as stored."""

    tenant: str
    size: int
    root: bytes
    signed_at: datetime
    note: str
    edge: bytes | None


class Publication(NamedTuple):
    """The last attempt to publish a tenant's checkpoints to a destination, as the table says."""

    destination: str
    tenant: str
    label: str
    size: int
    problem: str | None
    attempted_at: datetime


class TreeSize(NamedTuple):
    """The size of a tenant's tree, and its newest checkpoint; None if it has no checkpoint."""

    tenant: str
    size: int
    signed_size: int | None
    signed_at: datetime | None


_CHECKPOINT_COLUMNS = [getattr(Checkpoint, name) for name in StoredCheckpoint._fields]
_PUBLICATION_COLUMNS = [getattr(CheckpointPublication, name) for name in Publication._fields]
_PUBLICATION_KEY = ["destination", "tenant"]


def read_head(connection: Connection, tenant_id: str) -> Row[int, bytes] | None:
    """Return size and edge of a tenant's tree as stored, or None if it has no leaves."""
    query = select(TreeHead.size, TreeHead.edge)
    return connection.execute(query.where(TreeHead.tenant == tenant_id, TreeHead.size > 0)).first()


def read_trees(connection: Connection, tenant: str | None = None) -> list[str]:
    """Return the ids of the tenants with leaves, in order: of all, or of those of a name or id."""
    query = select(TreeHead.tenant).where(TreeHead.size > 0).order_by(TreeHead.tenant)
    if tenant is not None:
        query = query.where(TreeHead.tenant.in_(find_tenant_ids(connection, tenant)))
    return list(connection.scalars(query))


def known_names(connection: Connection) -> list[str]:
    """Return the names of all tenants, and that of the tree of changes of the config."""
    return [CONFIG_LOG, *connection.scalars(select(TenantIdentity.name).distinct())]


def read_last_checkpoint(
    connection: Connection, tenant_id: str, max_size: int | None = None
) -> StoredCheckpoint | None:
    """Return the newest checkpoint of a tenant with at most max_size leaves, or None."""
    query = select(*_CHECKPOINT_COLUMNS).where(Checkpoint.tenant == tenant_id, Checkpoint.size > 0)
    if max_size is not None:
        query = query.where(Checkpoint.size <= max_size)
    row = connection.execute(query.order_by(Checkpoint.size.desc()).limit(1)).first()
    return None if row is None else StoredCheckpoint._make(row)


def read_checkpoints_after(
    connection: Connection, tenant_id: str, size: int, limit: int
) -> list[StoredCheckpoint]:
    """Return at most limit checkpoints of a tenant that are larger than size, smallest first."""
    query = (
        select(*_CHECKPOINT_COLUMNS)
        .where(Checkpoint.tenant == tenant_id, Checkpoint.size > size)
        .order_by(Checkpoint.size)
        .limit(limit)
    )
    return list(map(StoredCheckpoint._make, connection.execute(query)))


def newest_checkpoint_sizes(connection: Connection) -> dict[str, int]:
    """Return the size of the newest checkpoint of each tenant that has one."""
    query = select(Checkpoint.tenant, func.max(Checkpoint.size)).group_by(Checkpoint.tenant)
    return {row[0]: row[1] for row in connection.execute(query)}


def read_tree_sizes(connection: Connection, tenant: str | None) -> list[TreeSize]:
    """Read the sizes of all trees, or of those of a tenant, with their newest checkpoints."""
    # Each is one search of an index. Grouping would read all checkpoints, one of each hour.
    newest = select(func.max(Checkpoint.size)).where(Checkpoint.tenant == TreeHead.tenant)
    is_newest = and_(
        Checkpoint.tenant == TreeHead.tenant,
        Checkpoint.size == newest.correlate(TreeHead).scalar_subquery(),
    )
    query = (
        select(TreeHead.tenant, TreeHead.size, Checkpoint.size, Checkpoint.signed_at)
        .outerjoin(Checkpoint, is_newest)
        .order_by(TreeHead.tenant)
    )
    if tenant is not None:
        query = query.where(is_of_tenant(connection, TreeHead.tenant, tenant))
    return [TreeSize(*row) for row in connection.execute(query)]


def insert_checkpoint(connection: Connection, checkpoint: StoredCheckpoint) -> bool:
    """Insert a checkpoint, unless the tenant has one of this size; return whether it was new."""
    return insert_once(connection, Checkpoint, checkpoint._asdict())


def leaf_hashes(connection: Connection, tenant_id: str, start: int, end: int) -> Iterator[bytes]:
    """Yield the hashes of a tenant's leaves from start to end, and stop where one is missing."""
    query = (
        select(Leaf.leaf_number, Leaf.hash)
        .where(Leaf.tenant == tenant_id, Leaf.leaf_number >= start, Leaf.leaf_number < end)
        .order_by(Leaf.leaf_number)
    )
    with connection.execute(query, execution_options={"yield_per": _PAGE_LEAVES}) as rows:
        for position, (number, leaf_hash) in enumerate(rows, start):
            if number != position:
                return
            yield leaf_hash


def read_forks(connection: Connection, tenant_id: str) -> list[Fork]:
    """Return the declared forks of a tree. Reads all its leaves."""
    query = select(Leaf.reference).where(Leaf.tenant == tenant_id, Leaf.kind == "fork")
    return readable_forks(connection.scalars(query))


def read_publications(connection: Connection) -> list[Publication]:
    """Return the last attempts to publish, by tenant and destination."""
    query = select(*_PUBLICATION_COLUMNS).order_by(
        CheckpointPublication.tenant, CheckpointPublication.label
    )
    return list(map(Publication._make, connection.execute(query)))


def store_publication(connection: Connection, publication: Publication) -> None:
    """Store the last attempt to publish a tenant's checkpoints to a destination."""
    values = publication._asdict()
    statement = insert_statement(CheckpointPublication, connection.dialect.name).values(values)
    changes = {name: value for name, value in values.items() if name not in _PUBLICATION_KEY}
    connection.execute(
        statement.on_conflict_do_update(index_elements=_PUBLICATION_KEY, set_=changes)
    )
