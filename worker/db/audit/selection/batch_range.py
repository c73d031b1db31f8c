"""Narrows a filter's query to a range of batch numbers, which both databases read by an index.

The time of a chunk has no index. But batches are numbered about in the order of their times, and a
chunk is decided soon after its batch: see the constants.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, func, literal_column, select

from models import Batch, Chunk
from worker.core.quotas.open_time import MAX_OPEN_TIME
from worker.db.audit.filters import GrantFilter, moment_of_states
from worker.db.audit.selection.states import LONGEST_VALIDITY
from worker.db.audit.selection.tenant_filter import is_of_tenant

# The numbers of two batches can be in another order than their times: clocks differ, and a
# transaction waits for others between reading the clock and getting its number. S3 refuses what is
# signed with a clock that is wrong by 15 minutes.
_DISORDER = timedelta(hours=1)
# From reading the clock to the commit, a chunk may wait for storage, credentials and the database.
_DECISION_TIME = timedelta(hours=1)
# Literals, because a partial index is used only if the statement itself contains its condition.
_IS_LATE = (Chunk.chunk_number > literal_column("0"), Chunk.issued == literal_column("0"))


def range_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    """Yield conditions on batch numbers that every row of a filter fulfils.

    They only save time: a query also has the conditions of the filter itself.
    """
    grant = grant_filter.grant
    batch_ids = {grant_filter.batch_id, grant and grant.batch_id} - {None}
    if batch_ids:
        yield _is_batch(connection, grant_filter, batch_ids)
        return
    before, after = batch_bounds(connection, grant_filter)
    if before is not None:
        yield from (Batch.batch_number > before, Chunk.batch_number > before)
    if after is not None:
        yield from (Batch.batch_number < after, Chunk.batch_number < after)


def batch_bounds(
    connection: Connection, grant_filter: GrantFilter
) -> tuple[int | None, int | None]:
    """Return the numbers between which all batches of a filter's times are, both exclusive."""
    since, until = _earliest(grant_filter), grant_filter.until
    before = None if since is None else _last_before(connection, since)
    after = None if until is None else _first_after(connection, until)
    return before, after


def _earliest(grant_filter: GrantFilter) -> datetime | None:
    """Return the moment since which the rows of a filter were decided: open grants are not old."""
    if set(grant_filter.states) != {"open"}:
        return grant_filter.since
    began = moment_of_states(grant_filter) - LONGEST_VALIDITY
    return began if grant_filter.since is None else max(began, grant_filter.since)


def _is_batch(
    connection: Connection, grant_filter: GrantFilter, batch_ids: set[str | None]
) -> ColumnElement[bool]:
    query = select(Batch.batch_number).where(Batch.batch_id.in_(sorted(filter(None, batch_ids))))
    if grant_filter.tenant is not None:
        query = query.where(is_of_tenant(connection, Batch.tenant, grant_filter.tenant))
    numbers = connection.scalars(query).all()
    # An equation lets the database read the rows in their order.
    is_batch: ColumnElement[bool] = Batch.batch_number.in_(numbers)
    return Batch.batch_number == numbers[0] if len(numbers) == 1 else is_batch


def _last_before(connection: Connection, since: datetime) -> int | None:
    """Return a batch number that is less than those of all chunks decided since a moment.

    An issued chunk is decided while its batch is open. A refused one can be decided at any time.
    """
    began_before = since - MAX_OPEN_TIME - _DISORDER
    before = connection.scalar(
        select(Batch.batch_number)
        .where(Batch.decided_at < began_before)
        .order_by(Batch.decided_at.desc())
        .limit(1)
    )
    if before is None:
        return None
    # A sum, because SQLite would search the smallest number of all chunks by the primary key.
    lowest = func.min(Chunk.batch_number + 0)
    late = connection.scalar(select(lowest).where(*_IS_LATE, Chunk.issued_at >= since))
    return before if late is None else min(before, late - 1)


def _first_after(connection: Connection, until: datetime) -> int | None:
    """Return a batch number that is greater than those of all chunks decided before a moment."""
    began_after = until + _DECISION_TIME + _DISORDER
    return connection.scalar(
        select(Batch.batch_number)
        .where(Batch.decided_at > began_after)
        .order_by(Batch.decided_at)
        .limit(1)
    )
