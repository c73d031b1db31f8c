"""The partitions of `grants` by month. Only PostgreSQL has them: elsewhere, nothing happens."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from models.partitions import DEFAULT_PARTITION, PARTITIONED
from worker.db.retention.months import add_months, month_of

MONTHS_AHEAD = 2
"""The number of months after the current one for which partitions exist."""

_BOUNDS = re.compile(r"FOR VALUES FROM \((MINVALUE|[0-9]+)\) TO \(([0-9]+)\)").fullmatch
_READ = text(
    "SELECT relname, pg_get_expr(relpartbound, oid) AS bounds, pg_total_relation_size(oid) AS bytes"
    " FROM pg_class JOIN pg_inherits ON inhrelid = oid WHERE inhparent = to_regclass(:parent)"
)
_ADD = text("SELECT valetkey_add_partition(:month)")
_DEFAULT_MONTHS = text(f"SELECT DISTINCT month FROM {DEFAULT_PARTITION} ORDER BY month")  # noqa: S608 - a constant


class Partition(NamedTuple):
    """A partition: its first month, None if it has all earlier ones, and the month after its last.

    bytes is its size on disk, with its indexes.
    """

    name: str
    first: int | None
    end: int
    bytes: int

    def contains(self, month: int) -> bool:
        """Return whether rows of a month are in this partition."""
        return (self.first is None or self.first <= month) and month < self.end


def has_partitions(connection: Connection) -> bool:
    """Return whether the database keeps grants in partitions."""
    return connection.dialect.name == "postgresql"


def partition_key(connection: Connection, issued_at: datetime) -> tuple[int, ...]:
    """Return the value of the column `month` for the grants of a chunk; () without that column."""
    return (month_of(issued_at),) if has_partitions(connection) else ()


def read_partitions(connection: Connection) -> list[Partition]:
    """Return the partitions by month, the oldest first, without the default partition."""
    if not has_partitions(connection):
        return []
    partitions = []
    for row in connection.execute(_READ, {"parent": PARTITIONED}):
        if bounds := _BOUNDS(row.bounds):
            first = None if bounds[1] == "MINVALUE" else int(bounds[1])
            partitions.append(Partition(row.relname, first, int(bounds[2]), row.bytes))
    return sorted(partitions, key=lambda partition: partition.end)


def missing_months(connection: Connection, now: datetime) -> list[int]:
    """Return the months from the current one on that should have a partition and have none."""
    current = month_of(now)
    months = (add_months(current, number) for number in range(MONTHS_AHEAD + 1))
    return _without_partition(months, connection)


def default_months(connection: Connection) -> list[int]:
    """Return the months of the rows that are in the default partition."""
    if not has_partitions(connection):
        return []
    return list(connection.scalars(_DEFAULT_MONTHS))


def months_to_add(connection: Connection, now: datetime) -> list[int]:
    """Return the months whose partitions `add_partition` should create, the oldest first.

    Those are the missing ones, and those of the rows in the default partition.
    """
    months = {*missing_months(connection, now), *default_months(connection)}
    return sorted(months)


def add_partition(connection: Connection, month: int) -> bool:
    """Create the partition of a month, unless it exists; return whether it was created.

    Moves the month's rows out of the default partition. Raises DBAPIError if a lock is not free
    within two seconds, or if the role may not do it: nothing was changed.
    """
    return bool(connection.scalar(_ADD, {"month": month}))


def _without_partition(months: Iterable[int], connection: Connection) -> list[int]:
    if not has_partitions(connection):
        return []
    partitions = read_partitions(connection)
    return [
        month for month in months if not any(partition.contains(month) for partition in partitions)
    ]
