"""What tenants were charged. Call these inside the transaction that writes what was charged for."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    String,
    and_,
    bindparam,
    delete,
    literal,
    or_,
    select,
    true,
    union_all,
    update,
)
from sqlalchemy.sql.dml import ReturningInsert

from models import Usage
from valetkey.wire.refusals import Window
from worker.core.quotas.cost import METRICS, NO_COST, WINDOWS, Cost, UsageByWindow, window_start
from worker.db.bulk_insert import upsert

UsageKey = tuple[str, Window, datetime]
"""Whose usage, in which window, and when that began."""

# Built once: to build a statement takes longer than to run it.
_COSTS = (Usage.grants, Usage.download_grants, Usage.upload_bytes)
_USED = select(Usage.window, *_COSTS).where(
    Usage.tenant == bindparam("of"),
    or_(*(and_(Usage.window == one, Usage.start == bindparam(one)) for one in WINDOWS)),
)
_RELEASE = (
    update(Usage)
    .where(Usage.tenant == bindparam("of"))
    .where(Usage.window == bindparam("in_window"), Usage.start == bindparam("since"))
    .values({cost: cost - bindparam(f"less_{cost.key}") for cost in _COSTS})
)
_SHORT_LIVED = timedelta(days=2)  # longer than a batch is open, as its rest is released then


def read_usage(connection: Connection, tenant: str, at: datetime) -> UsageByWindow:
    """What stands charged in the windows that hold this moment."""
    return _by_window(connection.execute(_USED, _starts(tenant, at)))


def charge(connection: Connection, tenant: str, cost: Cost, at: datetime) -> UsageByWindow:
    """Add to what a tenant was charged, in every window that holds this moment.

    Also in those that no quota limits today: a quota declared tomorrow finds what was used. Returns
    what stood charged before. Until the transaction ends, who else charges the tenant waits: so it
    is true until then, and what turns out to be too much can be released again.
    """
    if cost == NO_COST:
        return read_usage(connection, tenant, at)
    more = {f"more_{metric}": amount for metric, amount in cost._asdict().items()}
    rows = connection.execute(_charging(connection.dialect.name), _starts(tenant, at) | more)
    return {window: after.less(cost) for window, after in _by_window(rows).items()}


def _starts(tenant: str, at: datetime) -> dict[str, Any]:
    return {"of": tenant, **{window: window_start(window, at) for window in WINDOWS}}


def _by_window(rows: Iterable[Any]) -> dict[Window, Cost]:
    return {row.window: Cost(*row[1:]) for row in rows}


@cache
def _charging(dialect: str) -> ReturningInsert[str, int, int, int]:
    rows = union_all(*(_row(window) for window in WINDOWS))
    statement = upsert(Usage, dialect).from_select(Usage.__table__.columns.keys(), rows)
    return statement.on_conflict_do_update(
        index_elements=("tenant", "window", "start"),
        set_={cost.key: cost + statement.excluded[cost.key] for cost in _COSTS},
    ).returning(Usage.window, *_COSTS)


def _row(window: Window) -> Select[Any]:
    began = bindparam(window, type_=Usage.start.type)
    more = (bindparam(f"more_{metric}", type_=BigInteger) for metric in METRICS)
    # SQLite would take ON for a join's, were there no WHERE.
    return select(bindparam("of", type_=String), literal(window), began, *more).where(true())


def release(connection: Connection, tenant: str, cost: Cost, at: datetime) -> None:
    """Take back what was charged at a moment."""
    release_all(
        connection, {(tenant, window, window_start(window, at)): cost for window in WINDOWS}
    )


def release_all(connection: Connection, costs: Mapping[UsageKey, Cost]) -> None:
    """Take back what was charged, but in windows that are forgotten by now.

    Always in the order in which it is charged, so that nobody waits for each other.
    """
    rows = [
        {"of": place[0], "in_window": place[1], "since": place[2]}
        | {f"less_{metric}": amount for metric, amount in cost._asdict().items()}
        for place, cost in sorted(costs.items(), key=_in_order)
        if cost != NO_COST
    ]
    if rows:
        connection.execute(_RELEASE, rows)


def _in_order(charged: tuple[UsageKey, Cost]) -> tuple[str, int, datetime]:
    tenant, window, began = charged[0]
    return tenant, WINDOWS.index(window), began


def delete_expired(connection: Connection, now: datetime) -> None:
    """Remove short windows that ended long ago; days and months stay."""
    old = Usage.start < now - _SHORT_LIVED
    connection.execute(delete(Usage).where(Usage.window.in_(("minute", "hour")), old))
