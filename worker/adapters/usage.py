"""What tenants were charged. Call these inside the transaction that writes what was charged for."""

from collections.abc import Collection, Mapping

from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from models import Tenant, Usage
from worker.core.quotas import Period


def lock(connection: Connection, tenant: str) -> None:
    """Hold off every other admission of this tenant until the transaction ends.

    SQLite's writers exclude each other already; FOR UPDATE means nothing to it.
    """
    connection.execute(select(Tenant.name).where(Tenant.name == tenant).with_for_update())


def used(connection: Connection, tenant: str, periods: Collection[Period]) -> dict[Period, int]:
    """What stands charged for periods that began with these; a missing one was never charged."""
    starts = {period.start for period in periods}
    query = select(Usage.metric, Usage.window, Usage.start, Usage.used)
    rows = connection.execute(query.where(Usage.tenant == tenant, Usage.start.in_(starts)))
    return {Period(row.metric, row.window, row.start): row.used for row in rows}


def charge(connection: Connection, tenant: str, amounts: Mapping[Period, int]) -> None:
    """Add to what a tenant was charged."""
    rows = [
        {"tenant": tenant, "used": amount, **period._asdict()}
        for period, amount in amounts.items()
        if amount
    ]
    if not rows:
        return
    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    statement = dialect.insert(Usage)
    added = {"used": Usage.used + statement.excluded.used}
    keys = ("tenant", "metric", "window", "start")
    connection.execute(statement.on_conflict_do_update(index_elements=keys, set_=added), rows)


def release(connection: Connection, tenant: str, amounts: Mapping[Period, int]) -> None:
    """Take back what was charged for what was then refused."""
    for period, amount in amounts.items():
        same = [getattr(Usage, name) == value for name, value in period._asdict().items()]
        connection.execute(
            update(Usage).where(Usage.tenant == tenant, *same).values(used=Usage.used - amount)
        )
