"""What tenants were charged. Call these inside the transaction that writes what was charged for."""

from collections.abc import Collection, Mapping
from functools import cache

from sqlalchemy import Connection, Insert, bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from models import Tenant, Usage
from worker.core.quotas import Period

# Built once: to build a statement takes longer than to run it.
_OF = Usage.tenant == bindparam("of")
_LOCK = select(Tenant.name).where(Tenant.name == bindparam("of")).with_for_update()
_USED = select(Usage.metric, Usage.window, Usage.start, Usage.used).where(
    _OF, Usage.start.in_(bindparam("starts", expanding=True))
)
_KEYS = ("tenant", "metric", "window", "start")


def lock(connection: Connection, tenant: str) -> None:
    """Hold off every other admission of this tenant until the transaction ends.

    SQLite's writers exclude each other already.
    """
    if connection.dialect.name != "sqlite":
        connection.execute(_LOCK, {"of": tenant})


def used(connection: Connection, tenant: str, periods: Collection[Period]) -> dict[Period, int]:
    """What stands charged for periods that began with these; a missing one was never charged."""
    starts = list({period.start for period in periods})
    rows = connection.execute(_USED, {"of": tenant, "starts": starts})
    return {Period(row.metric, row.window, row.start): row.used for row in rows}


def charge(connection: Connection, tenant: str, amounts: Mapping[Period, int]) -> None:
    """Add to what a tenant was charged."""
    rows = [
        {"tenant": tenant, "used": amount, **period._asdict()}
        for period, amount in amounts.items()
        if amount
    ]
    if rows:
        connection.execute(_charging(connection.dialect.name), rows)


@cache
def _charging(dialect: str) -> Insert:
    statement = sqlite.insert(Usage) if dialect == "sqlite" else postgresql.insert(Usage)
    added = {"used": Usage.used + statement.excluded.used}
    return statement.on_conflict_do_update(index_elements=_KEYS, set_=added)


def release(connection: Connection, tenant: str, amounts: Mapping[Period, int]) -> None:
    """Take back what was charged for what was then refused."""
    for period, amount in amounts.items():
        if amount:
            same = [getattr(Usage, name) == value for name, value in period._asdict().items()]
            left = update(Usage).where(_OF, *same).values(used=Usage.used - amount)
            connection.execute(left, {"of": tenant})
