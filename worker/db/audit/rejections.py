"""Messages that nobody is known to have sent, as they are listed: their counts by the hour."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, select

from models import Rejection
from worker.core.quotas.cost import window_start


class RejectionRecord(NamedTuple):
    """How many of a tenant and code in one hour; the digest is the last one's SHA-256, in hex."""

    hour: datetime
    tenant: str | None
    code: str
    count: int  # type: ignore[assignment] # hides tuple's own, which nobody asks here
    last_at: datetime
    last_digest: str


def read_rejections(
    connection: Connection, limit: int, *, tenant: str | None, since: datetime | None
) -> list[RejectionRecord]:
    """Read so many, newest hour first; what is None is not asked."""
    query = select(*(getattr(Rejection, name) for name in RejectionRecord._fields))
    if tenant is not None:
        query = query.where(Rejection.tenant == tenant)
    if since is not None:
        query = query.where(Rejection.hour >= window_start("hour", since))
    query = query.order_by(Rejection.hour.desc(), Rejection.tenant, Rejection.code)
    rows = connection.execute(query.limit(limit))
    return [
        RejectionRecord(*row)._replace(tenant=row.tenant or None, last_digest=row.last_digest.hex())
        for row in rows
    ]
