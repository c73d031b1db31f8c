"""Figures of the audit report that no other command counts: lifetimes, and the size of the log."""

from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, func, select

from models import Batch, Chunk, Delivery
from worker.db.audit.backlog import count_pending_webhooks
from worker.db.audit.filters import GrantFilter, batch_conditions
from worker.db.audit.selection.tenant_filter import is_of_tenant


class LifetimeCount(NamedTuple):
    """The number of grants that were issued for so many seconds, limited by the same rule."""

    seconds: int
    limited_by: str
    issued: int


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


def count_unsent_webhooks(connection: Connection, tenant: str | None) -> int:
    """Count the webhooks of all tenants, or of one, that are not sent yet."""
    if tenant is None:
        return sum(count_pending_webhooks(connection).values())
    is_of = is_of_tenant(connection, Delivery.tenant, tenant)
    query = select(func.count()).select_from(Delivery).where(Delivery.state == "pending", is_of)
    return connection.scalar(query) or 0


def _select_chunks(*columns: Any) -> Select[*tuple[Any, ...]]:
    return select(*columns).select_from(Chunk).join(Batch, Batch.batch_number == Chunk.batch_number)
