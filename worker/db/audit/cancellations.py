"""Batches that were cancelled, as they are listed."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, select

from models import Cancellation


class CancellationRecord(NamedTuple):
    """That a batch was cancelled: by whom and why; signed_by is the key, if it was signed."""

    at: datetime
    tenant: str
    requested_by: str
    signed_by: str | None
    reason: str | None
    batch: str


def read_cancellations(
    connection: Connection, limit: int, *, tenant: str | None, since: datetime | None
) -> list[CancellationRecord]:
    """Read so many, newest first; what is None is not asked."""
    query = select(
        Cancellation.at,
        Cancellation.tenant,
        Cancellation.requested_by,
        Cancellation.key,
        Cancellation.reason,
        Cancellation.batch,
    )
    if tenant is not None:
        query = query.where(Cancellation.tenant == tenant)
    if since is not None:
        query = query.where(Cancellation.at >= since)
    rows = connection.execute(query.order_by(Cancellation.at.desc()).limit(limit))
    return [CancellationRecord(*row) for row in rows]
