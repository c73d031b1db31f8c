"""Creates the partitions of the coming months, before their first grant is issued."""

from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from worker.db.engine import read_transaction, write_transaction
from worker.db.retention.partitions import add_partition, months_to_add
from worker.errors import Transient

if TYPE_CHECKING:  # commands that need the months only start without structlog
    from worker.jobs.problem_log import ProblemLog


def create_partitions(engine: Engine, now: datetime, problems: "ProblemLog") -> int:
    """Create the missing partitions of this month and the next two; return their number.

    Any number of processes may do this at once. A partition that cannot be created is logged, and
    tried again at the next run: grants without one go to the default partition.
    """
    try:
        with read_transaction(engine) as connection:
            months = months_to_add(connection, now)
    except (DBAPIError, Transient) as error:
        problems.note("partitions_unknown", "", _describe(error))
        return 0
    problems.note("partitions_unknown", "", None)
    return sum(_create_partition(engine, month, problems) for month in months)


def _create_partition(engine: Engine, month: int, problems: "ProblemLog") -> bool:
    try:
        with write_transaction(engine) as connection:
            is_new = add_partition(connection, month)
    except (DBAPIError, Transient) as error:
        problems.note("partition_postponed", str(month), _describe(error), month=month)
        return False
    problems.note("partition_postponed", str(month), None)
    return is_new


def _describe(error: DBAPIError | Transient) -> str:
    """Return the server's words, which name the lock or the missing privilege, and no values."""
    cause = error.__cause__ if isinstance(error, Transient) else error
    return str(getattr(cause, "orig", cause)).partition("\n")[0]
