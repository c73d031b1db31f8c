"""The audit log of rejected messages, counted by hour."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select

from models import RejectionCount
from worker.core.quotas.cost import window_start
from worker.db.audit.pages import Page, fetch_page
from worker.db.audit.selection.tenant_filter import is_of_tenant


class RejectionRecord(NamedTuple):
    """The number of messages rejected with one code in one hour.

    tenant is the id of the one that the messages named, which does not prove that it sent them.
    last_digest is the SHA-256 of the last message, in hex.
    """

    hour: datetime
    tenant: str | None
    code: str
    count: int  # type: ignore[assignment] # the column hides the method of tuple
    last_at: datetime
    last_digest: str


def read_rejection_counts(
    connection: Connection, limit: int, *, tenant: str | None, since: datetime | None
) -> Page[RejectionRecord]:
    """Read at most limit counts, newest hour first. A filter that is None matches everything.

    since selects whole hours, beginning with the hour that contains it.
    """
    query = select(*(getattr(RejectionCount, name) for name in RejectionRecord._fields))
    if tenant is not None:
        query = query.where(is_of_tenant(connection, RejectionCount.tenant, tenant))
    if since is not None:
        query = query.where(RejectionCount.hour >= window_start("hour", since))
    query = query.order_by(RejectionCount.hour.desc(), RejectionCount.tenant, RejectionCount.code)
    return fetch_page(connection, query, limit, _to_record)


def count_rejections(connection: Connection, since: datetime) -> dict[tuple[str, str], int]:
    """Count the rejected messages since the hour of a moment, by named tenant and code.

    The tenant is an empty text for messages that named none that exists.
    """
    columns = RejectionCount.tenant, RejectionCount.code
    query = select(*columns, func.sum(RejectionCount.count)).group_by(*columns)
    rows = connection.execute(query.where(RejectionCount.hour >= window_start("hour", since)))
    return {(tenant, code): int(count) for tenant, code, count in rows}


def _to_record(row: Row[*tuple[Any, ...]]) -> RejectionRecord:
    return RejectionRecord(*row)._replace(
        tenant=row.tenant or None, last_digest=row.last_digest.hex()
    )
