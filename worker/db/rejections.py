"""Counts messages that could not be authenticated or parsed, without keeping their claims."""

from datetime import datetime
from hashlib import sha256

from sqlalchemy import Connection

from models import Rejection
from valetkey.wire.refusals import Code
from worker.core.quotas.cost import window_start
from worker.db.inserts import upsert


def count_rejection(
    connection: Connection, code: Code, tenant: str | None, content: str, now: datetime
) -> None:
    """Count one rejected message in its hour.

    tenant is the existing tenant that the message named, content the message as text.
    """
    values = {
        "hour": window_start("hour", now),
        "tenant": tenant or "",
        "code": code.value,
        "count": 1,
        "last_at": now,
        "last_digest": sha256(content.encode(errors="surrogatepass")).digest(),
    }
    update = {"count": Rejection.count + 1, "last_at": now, "last_digest": values["last_digest"]}
    statement = upsert(Rejection, connection.dialect.name).on_conflict_do_update(
        index_elements=("hour", "tenant", "code"), set_=update
    )
    connection.execute(statement.values(values))
