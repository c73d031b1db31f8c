"""Counts messages of which nothing else is recorded, and reads their counts by hour."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, func, select

from models import RejectionCount
from worker.base.inserts import insert_statement
from worker.base.pages import Page, fetch_page
from worker.core.quota_rules import window_start
from worker.ledger.tenant_history import is_of_tenant

NOT_RECORDED = "not_recorded"  # refused beyond the ceiling of records without a charge; never sent


def count_rejections(
    connection: Connection,
    tenant_id: str | None,
    digests: Mapping[str, Sequence[bytes]],
    now: datetime,
) -> None:
    """Count rejected messages in their hour.

    tenant_id is that of the existing tenant that the messages named, digests are their
    message_digests by the code of the rejection. Rows are locked in the order of the codes, to
    avoid deadlocks.
    """
    insert = insert_statement(RejectionCount, connection.dialect.name)
    update = {"last_at": now, "last_digest": insert.excluded.last_digest}
    statement = insert.on_conflict_do_update(
        index_elements=("hour", "tenant", "code"),
        set_=update | {"count": RejectionCount.count + insert.excluded.count},
    )
    values = {"hour": window_start("hour", now), "tenant": tenant_id or "", "last_at": now}
    for code in sorted(digests):
        counted = {"count": len(digests[code]), "last_digest": digests[code][-1]}
        connection.execute(statement.values(values | counted | {"code": str(code)}))


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


def sum_rejections(connection: Connection, since: datetime) -> dict[tuple[str, str], int]:
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
