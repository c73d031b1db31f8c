"""Figures of the audit report that no other command counts: lifetimes, and the size of the log."""

from collections.abc import Iterator
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, and_, func, select

from models import Batch, Checkpoint, Chunk, Delivery, TreeHead
from worker.db.audit.backlog import count_pending_webhooks
from worker.db.audit.filters import GrantFilter, batch_conditions
from worker.db.audit.selection.tenant_filter import is_of_tenant


class LifetimeCount(NamedTuple):
    """The number of grants that were issued for so many seconds, limited by the same rule."""

    seconds: int
    limited_by: str
    issued: int


class TreeSize(NamedTuple):
    """The size of a tenant's tree, and its newest checkpoint; None if it has no checkpoint."""

    tenant: str
    size: int
    signed_size: int | None
    signed_at: datetime | None


def count_lifetimes(connection: Connection, grant_filter: GrantFilter) -> list[LifetimeCount]:
    """Count issued grants by their lifetime and by the rule that limited it, shortest first."""
    query = (
        _select_chunks(Chunk.expires_in, Chunk.limited_by, func.sum(Chunk.issued))
        .where(*batch_conditions(connection, grant_filter), Chunk.issued > 0)
        .group_by(Chunk.expires_in, Chunk.limited_by)
        .order_by(Chunk.expires_in, Chunk.limited_by)
    )
    return [LifetimeCount(row[0], row[1], int(row[2])) for row in connection.execute(query)]


def count_requesters(connection: Connection, grant_filter: GrantFilter) -> int:
    """Count the different requesters."""
    query = _select_chunks(func.count(Batch.requested_by.distinct()))
    return connection.scalar(query.where(*batch_conditions(connection, grant_filter))) or 0


def count_rows(connection: Connection, tenant: str | None) -> tuple[int, int]:
    """Count the audit rows and the batches of the whole log, or of a tenant."""
    rows = select(func.sum(Chunk.issued + Chunk.refused))
    batches = select(func.count()).select_from(Batch)
    if tenant is not None:
        condition = is_of_tenant(connection, Batch.tenant, tenant)
        rows = rows.join(Batch, Batch.batch_number == Chunk.batch_number).where(condition)
        batches = batches.where(condition)
    return int(connection.scalar(rows) or 0), connection.scalar(batches) or 0


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
        .where(*_of_tenant(connection, TreeHead.tenant, tenant))
        .order_by(TreeHead.tenant)
    )
    return [TreeSize(*row) for row in connection.execute(query)]


def count_unsent_webhooks(connection: Connection, tenant: str | None) -> int:
    """Count the webhooks of all tenants, or of one, that are not sent yet."""
    if tenant is None:
        return sum(count_pending_webhooks(connection).values())
    query = select(func.count()).select_from(Delivery).where(Delivery.state == "pending")
    return connection.scalar(query.where(*_of_tenant(connection, Delivery.tenant, tenant))) or 0


def _select_chunks(*columns: Any) -> Select[*tuple[Any, ...]]:
    return select(*columns).select_from(Chunk).join(Batch, Batch.batch_number == Chunk.batch_number)


def _of_tenant(
    connection: Connection, column: Any, tenant: str | None
) -> Iterator[ColumnElement[bool]]:
    if tenant is not None:
        yield is_of_tenant(connection, column, tenant)
