"""What tenants were charged. Call these inside the transaction that writes what was charged for."""

from collections.abc import Collection
from datetime import datetime, timedelta
from functools import cache

from sqlalchemy import Connection, Insert, bindparam, delete, select, update
from sqlalchemy.dialects import postgresql, sqlite

from models import Tenant, Usage
from valetkey.refusals import Window
from worker.core.quotas import NOTHING, WINDOWS, Cost, Used, start

# Built once: to build a statement takes longer than to run it.
_OF = Usage.tenant == bindparam("of")
_COSTS = (Usage.grants, Usage.download_grants, Usage.upload_bytes)
_LOCK = select(Tenant.name).where(Tenant.name == bindparam("of")).with_for_update()
_USED = select(Usage.window, Usage.start, *_COSTS).where(
    _OF, Usage.start.in_(bindparam("starts", expanding=True))
)
_RELEASE = (
    update(Usage)
    .where(_OF, Usage.window == bindparam("in_window"), Usage.start == bindparam("since"))
    .values({cost: cost - bindparam(f"less_{cost.key}") for cost in _COSTS})
)
_SHORT_LIVED = timedelta(days=7)


def lock(connection: Connection, tenant: str) -> None:
    """Hold off every other admission of this tenant until the transaction ends.

    SQLite's writers exclude each other already.
    """
    if connection.dialect.name != "sqlite":
        connection.execute(_LOCK, {"of": tenant})


def used(connection: Connection, tenant: str, at: datetime) -> Used:
    """What stands charged in the windows that hold this moment."""
    starts = {window: start(window, at) for window in WINDOWS}
    rows = connection.execute(_USED, {"of": tenant, "starts": list(set(starts.values()))})
    return {row.window: Cost(*row[2:]) for row in rows if row.start == starts[row.window]}


def charge(connection: Connection, tenant: str, cost: Cost, at: datetime) -> None:
    """Add to what a tenant was charged, in every window that holds this moment.

    Also in those that no quota limits today: a quota declared tomorrow finds what was used.
    """
    if cost != NOTHING:
        connection.execute(_charging(connection.dialect.name), _rows(tenant, cost, at))


def _rows(tenant: str, cost: Cost, at: datetime) -> list[dict[str, object]]:
    return [
        {"tenant": tenant, "window": window, "start": start(window, at), **cost._asdict()}
        for window in WINDOWS
    ]


@cache
def _charging(dialect: str) -> Insert:
    statement = sqlite.insert(Usage) if dialect == "sqlite" else postgresql.insert(Usage)
    added = {cost.key: cost + statement.excluded[cost.key] for cost in _COSTS}
    return statement.on_conflict_do_update(index_elements=("tenant", "window", "start"), set_=added)


def release(
    connection: Connection,
    tenant: str,
    cost: Cost,
    at: datetime,
    windows: Collection[Window] = WINDOWS,
) -> None:
    """Take back what was charged at a moment, but in windows that are forgotten by now."""
    if cost == NOTHING:
        return
    less = {f"less_{metric}": amount for metric, amount in cost._asdict().items()}
    rows = [
        {"of": tenant, "in_window": window, "since": start(window, at), **less}
        for window in windows
    ]
    connection.execute(_RELEASE, rows)


def forget(connection: Connection, now: datetime) -> None:
    """Remove short windows that ended long ago; days and months stay."""
    old = Usage.start < now - _SHORT_LIVED
    connection.execute(delete(Usage).where(Usage.window.in_(("minute", "hour")), old))
