"""Counts messages that could not be authenticated or parsed, without keeping their claims."""

from datetime import datetime

from sqlalchemy import Connection

from models import RejectionCount
from worker.core.quotas.cost import window_start
from worker.db.inserts import insert_statement


def count_rejection(
    connection: Connection,
    code: str,
    tenant_id: str | None,
    digest: bytes,
    now: datetime,
    count: int = 1,
) -> None:
    """Count a rejected message in its hour, or several with the same code.

    tenant_id is that of the existing tenant that the message named, digest the message_digest of
    the last one.
    """
    values = {
        "hour": window_start("hour", now),
        "tenant": tenant_id or "",
        "code": str(code),
        "count": count,
        "last_at": now,
        "last_digest": digest,
    }
    update = {
        "count": RejectionCount.count + count,
        "last_at": now,
        "last_digest": digest,
    }
    statement = insert_statement(RejectionCount, connection.dialect.name).on_conflict_do_update(
        index_elements=("hour", "tenant", "code"), set_=update
    )
    connection.execute(statement.values(values))
