"""Counts messages that are not recorded otherwise."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection

from models import RejectionCount
from worker.base.inserts import insert_statement
from worker.rules.quota_rules import window_start

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
