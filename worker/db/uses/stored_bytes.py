"""The bytes that a tenant has stored, in the usage of the window live."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, bindparam, case

from models import Usage
from worker.core.quotas.cost import LIVE_START
from worker.db.inserts import insert_statement

_MOST = 2**62
"""The bytes beyond which nothing is counted. Twice as many do not fit into the column."""

_AFTER = Usage.stored_bytes + bindparam("change")


def add_stored_bytes(connection: Connection, changes: Mapping[str, int]) -> None:
    """Add changes, by tenant id, to the bytes that are stored, which stay between 0 and 2^62.

    Locks the usage of the window live until the transaction ends, in the order of the tenants, to
    avoid deadlocks. Issuing waits for it, so call it late.
    """
    for tenant_id, change in sorted(changes.items()):
        if change:
            _add(connection, tenant_id, max(1 - _MOST, min(change, _MOST - 1)))


def _add(connection: Connection, tenant_id: str, change: int) -> None:
    values: dict[str, Any] = {
        "tenant": tenant_id,
        "window": "live",
        "window_start": LIVE_START,
        "grants": 0,
        "download_grants": 0,
        "upload_bytes": 0,
        "stored_bytes": max(change, 0),
    }
    statement = insert_statement(Usage, connection.dialect.name).values(values)
    statement = statement.on_conflict_do_update(
        index_elements=("tenant", "window", "window_start"),
        set_={"stored_bytes": case((_AFTER < 0, 0), (_AFTER > _MOST, _MOST), else_=_AFTER)},
    )
    connection.execute(statement, {"change": change})
