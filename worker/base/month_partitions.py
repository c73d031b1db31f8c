"""The partitions of `grants` by month. Only PostgreSQL has them: elsewhere, nothing happens.

Months are numbers like 202611, in UTC: they order like time.
"""

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from models.grants import DEFAULT_PARTITION, PARTITIONED
from worker.base.database_engine import read_transaction, write_transaction
from worker.errors import Transient

if TYPE_CHECKING:  # commands that need the months only start without structlog
    from worker.base.jobs import ProblemLog


def month_of(moment: datetime) -> int:
    """Return the month of a time."""
    utc = moment.astimezone(UTC)
    return utc.year * 100 + utc.month


def add_months(month: int, number: int) -> int:
    """Return the month that is a number of months after another one, or before it."""
    years, index = divmod(month // 100 * 12 + month % 100 - 1 + number, 12)
    return years * 100 + index + 1


MONTHS_AHEAD = 2
"""The number of months after the current one for which partitions exist."""

_BOUNDS = re.compile(r"FOR VALUES FROM \((MINVALUE|[0-9]+)\) TO \(([0-9]+)\)").fullmatch
_READ_PARTITIONS = text(
    "SELECT relname, pg_get_expr(relpartbound, oid) AS bounds, pg_total_relation_size(oid) AS bytes"
    " FROM pg_class JOIN pg_inherits ON inhrelid = oid WHERE inhparent = to_regclass(:parent)"
)
_ADD_PARTITION = text("SELECT valetkey_add_partition(:month)")
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
    for row in connection.execute(_READ_PARTITIONS, {"parent": PARTITIONED}):
        if bounds := _BOUNDS(row.bounds):
            first = None if bounds[1] == "MINVALUE" else int(bounds[1])
            partitions.append(Partition(row.relname, first, int(bounds[2]), row.bytes))
    return sorted(partitions, key=lambda partition: partition.end)


def missing_months(connection: Connection, now: datetime) -> list[int]:
    """Return the months from the current one on that should have a partition and have none."""
    if not has_partitions(connection):
        return []
    partitions, current = read_partitions(connection), month_of(now)
    months = [add_months(current, number) for number in range(MONTHS_AHEAD + 1)]
    return [month for month in months if not any(each.contains(month) for each in partitions)]


def default_months(connection: Connection) -> list[int]:
    """Return the months of the rows that are in the default partition."""
    if not has_partitions(connection):
        return []
    return list(connection.scalars(_DEFAULT_MONTHS))


def add_partition(connection: Connection, month: int) -> bool:
    """Create the partition of a month, unless it exists; return whether it was created.

    Moves the month's rows out of the default partition. Raises DBAPIError if a lock is not free
    within two seconds, or if the role may not do it: nothing was changed.
    """
    return bool(connection.scalar(_ADD_PARTITION, {"month": month}))


def create_partitions(engine: Engine, now: datetime, problems: "ProblemLog") -> int:
    """Create the missing partitions of this month and the next two; return their number.

    Any number of processes may do this at once. A partition that cannot be created is logged, and
    tried again at the next run: grants without one go to the default partition.
    """
    try:
        with read_transaction(engine) as connection:
            months = {*missing_months(connection, now), *default_months(connection)}
    except (DBAPIError, Transient) as error:
        problems.note("partitions_unknown", "", _describe_error(error))
        return 0
    problems.note("partitions_unknown", "", None)
    return sum(_create_partition(engine, month, problems) for month in sorted(months))


def _create_partition(engine: Engine, month: int, problems: "ProblemLog") -> bool:
    try:
        with write_transaction(engine) as connection:
            is_new = add_partition(connection, month)
    except (DBAPIError, Transient) as error:
        problems.note("partition_postponed", str(month), _describe_error(error), month=month)
        return False
    problems.note("partition_postponed", str(month), None)
    return is_new


def _describe_error(error: DBAPIError | Transient) -> str:
    """Return the server's words, which name the lock or the missing privilege, and no values."""
    cause = error.__cause__ if isinstance(error, Transient) else error
    return str(getattr(cause, "orig", cause)).partition("\n")[0]
