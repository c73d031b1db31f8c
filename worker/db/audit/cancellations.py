"""The audit log of cancelled batches."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, select

from models import Cancellation
from worker.db.audit.pages import Page, fetch_page
from worker.db.audit.selection.tenant_filter import is_of_tenant


class CancellationRecord(NamedTuple):
    """A cancelled batch: when, by whom and why it was cancelled.

    signed_by is the name of the tenant's key that signed the request; None if it was not signed.
    """

    at: datetime
    tenant: str
    requested_by: str
    signed_by: str | None
    reason: str | None
    batch: str


def read_cancellations(
    connection: Connection, limit: int, *, tenant: str | None, since: datetime | None
) -> Page[CancellationRecord]:
    """Read at most limit cancellations, newest first. A filter that is None matches everything."""
    query = select(
        Cancellation.cancelled_at,
        Cancellation.tenant,
        Cancellation.requested_by,
        Cancellation.signing_key,
        Cancellation.reason,
        Cancellation.batch_id,
    )
    if tenant is not None:
        query = query.where(is_of_tenant(connection, Cancellation.tenant, tenant))
    if since is not None:
        query = query.where(Cancellation.cancelled_at >= since)
    query = query.order_by(Cancellation.cancelled_at.desc())
    return fetch_page(connection, query, limit, lambda row: CancellationRecord(*row))
