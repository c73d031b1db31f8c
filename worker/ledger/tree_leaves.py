"""Appends leaves to the trees, in the transaction that adds their audit rows."""

from typing import NamedTuple

from sqlalchemy import Connection, bindparam, select

from models import Leaf, TreeHead
from worker.base.database_engine import DriverStatement, execute_in_driver, insert_rows
from worker.base.inserts import insert_once
from worker.ledger.merkle import NO_LEAVES, RightEdge

_LEAF_COLUMNS = Leaf.__table__.columns.keys()
_READ = DriverStatement(
    select(TreeHead.size, TreeHead.edge)
    .where(TreeHead.tenant == bindparam("tenant_id"))
    .with_for_update()
)
_UPDATE = {
    "sqlite": "UPDATE tree_heads SET size = ?, edge = ? WHERE tenant = ?",
    "postgresql": "UPDATE tree_heads SET size = %s, edge = %s WHERE tenant = %s",
}
# One round trip instead of two.
_UPDATE_AND_INSERT = (
    f"WITH head AS ({_UPDATE['postgresql']}) "  # noqa: S608 - names from our own models
    f"INSERT INTO leaves ({', '.join(_LEAF_COLUMNS)}) VALUES (%s, %s, %s, %s, %s, %s, %s)"
)


class NewLeaf(NamedTuple):
    """A leaf to append, and the audit rows that its hash covers; the fields are those of `Leaf`."""

    kind: str
    hash: bytes
    batch_number: int | None = None
    chunk_number: int | None = None
    reference: str | None = None


def append_leaf(connection: Connection, tenant_id: str, *leaves: NewLeaf) -> None:
    """Append a leaf, or several in this order, to a tenant's tree.

    Locks the head of the tree until the transaction ends, so call it last: leaves are in the order
    of the commits, and every other transaction of the tenant that appends waits.
    """
    dialect = connection.dialect.name
    edge = lock_head(connection, tenant_id)
    rows = []
    for leaf in leaves:
        position = (leaf.batch_number, leaf.chunk_number, leaf.reference)
        rows.append((tenant_id, edge.size, leaf.kind, *position, leaf.hash))
        edge = edge.append(leaf.hash)
    head = edge.size, edge.to_bytes(), tenant_id
    if dialect == "postgresql" and len(rows) == 1:
        execute_in_driver(connection, _UPDATE_AND_INSERT, (*head, *rows[0]))
    elif rows:
        insert_rows(connection, Leaf.__tablename__, _LEAF_COLUMNS, rows)
        execute_in_driver(connection, _UPDATE[dialect], head)


def lock_head(connection: Connection, tenant_id: str) -> RightEdge:
    """Lock the head of a tenant's tree until the transaction ends, and return its right edge."""
    tenant = {"tenant_id": tenant_id}
    rows = _READ.run(connection, tenant)
    if not rows:
        values = {"tenant": tenant_id, "size": 0, "edge": NO_LEAVES.to_bytes()}
        insert_once(connection, TreeHead, values)
        rows = _READ.run(connection, tenant)
    return RightEdge.from_bytes(*rows[0])
