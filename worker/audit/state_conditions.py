"""The states of grants as SQL: the same as `grant_state` gives, without reading rows for it.

Expressions refer to one grant by its columns of batch and item number.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, get_args

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    null,
    or_,
    select,
)
from sqlalchemy.orm import aliased

from models import Batch, Chunk, Grant, Settlement, StoredObject, Use
from worker.audit.grant_states import DOWNLOADED, STORING, GrantState
from worker.audit.state_facts import contains_item, split_ranges
from worker.rules.issued_grants import SLOT_KINDS
from worker.shared.grant_items import is_in_chunk
from worker.shared.pages import seconds_since_epoch

STATES: tuple[GrantState, ...] = get_args(GrantState)
USED_STATES = frozenset[GrantState](("used", "late", "mismatched", "overwritten"))
"""The states that a use causes."""

USING_EVENTS = (*STORING, DOWNLOADED)
"""The events of uses that cause a state."""

LONGEST_VALIDITY = timedelta(days=7)
"""The largest validity of a grant."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ONE: ColumnElement[int] = literal_column("1")


class GrantKey(NamedTuple):
    """The columns that identify a grant."""

    batch_number: Any
    item_number: Any


GRANT_KEY = GrantKey(Grant.batch_number, Grant.item_number)


def state_column(connection: Connection, now: datetime) -> ColumnElement[str | None]:
    """Return the state of a row of `grants` at a time, NULL for a refused item."""
    state = func.coalesce(*used_states(GRANT_KEY), _idle_state(connection, now))
    return case((Grant.code.is_(None), state), else_=null())


def used_states(key: GrantKey) -> tuple[ColumnElement[str | None], ...]:
    """Return the states that uses cause: the first one that is not NULL is the grant's."""
    table = key.batch_number.table
    is_of_grant = and_(Use.batch_number == key.batch_number, Use.item_number == key.item_number)
    is_as_granted = Use.verdict == literal_column("'as_granted'")
    state = case(
        (~_is_current(key), literal_column("'overwritten'")),
        (is_as_granted, literal_column("'used'")),
        else_=Use.verdict,
    )
    stored = (
        select(state)
        .where(is_of_grant, Use.event.in_(STORING))
        .order_by(Use.occurred_at.desc(), Use.fingerprint.desc())
        .limit(1)
    )
    downloaded: Select[Any] = select(literal_column("'used'"))
    downloaded = downloaded.where(is_of_grant, Use.event == DOWNLOADED)
    return (
        stored.correlate(table).scalar_subquery(),
        downloaded.limit(1).correlate(table).scalar_subquery(),
    )


def _is_current(key: GrantKey) -> ColumnElement[bool]:
    """Return the condition that the object that a grant stored is the newest under its key."""
    return (
        select(_ONE)
        .where(StoredObject.batch_number == key.batch_number)
        .where(StoredObject.item_number == key.item_number)
        .correlate_except(StoredObject)
        .exists()
    )


def _idle_state(connection: Connection, now: datetime) -> ColumnElement[str]:
    """Return the state of a grant without a known use, from its batch and chunk."""
    chunk, batch = aliased(Chunk), aliased(Batch)
    is_unused = (
        select(_ONE)
        .where(Settlement.batch_number == chunk.batch_number)
        .where(Settlement.chunk_number == chunk.chunk_number)
        .where(contains_item(connection, Settlement.unused, Grant.item_number))
        .correlate_except(Settlement)
        .exists()
    )
    state = case(
        (is_open(connection, now, chunk), literal_column("'open'")),
        (and_(batch.kind.in_(SLOT_KINDS), is_unused), literal_column("'unused'")),
        else_=literal_column("'unknown'"),
    )
    return (
        select(state)
        .select_from(batch)
        .join(chunk, chunk.batch_number == batch.batch_number)
        .where(batch.batch_number == Grant.batch_number)
        .where(chunk.chunk_number == Grant.item_number // batch.chunk_size)
        .correlate(Grant)
        .scalar_subquery()
    )


def count_unused(connection: Connection) -> ColumnElement[int]:
    """Return how many of the unused items of a settlement have no use until now.

    A slot can be used after its settlement.
    """
    ranges = split_ranges(connection, Settlement.unused)
    used = (
        select(func.count(Use.item_number.distinct()))
        .where(Use.batch_number == Settlement.batch_number, Use.event.in_(USING_EVENTS))
        .where(Use.item_number >= ranges.first, Use.item_number <= ranges.last)
        .correlate_except(Use)
        .scalar_subquery()
    )
    number = func.sum(ranges.last - ranges.first + _ONE - used)
    query = select(func.coalesce(number, literal_column("0"))).select_from(ranges.table)
    return query.correlate_except(ranges.table).scalar_subquery()


def is_open(connection: Connection, now: datetime, chunk: Any = Chunk) -> ColumnElement[bool]:
    """Return the condition that the grants of a chunk have not ended."""
    if connection.dialect.name != "sqlite":
        lifetime = func.make_interval(0, 0, 0, 0, 0, 0, chunk.expires_in)
        ends_later: ColumnElement[bool] = chunk.issued_at + lifetime > literal(
            now, chunk.issued_at.type
        )
        return ends_later
    # Seconds since 1970, which have ten digits until 2286, and the fraction: compared as texts.
    seconds = cast(seconds_since_epoch(chunk.issued_at) + chunk.expires_in, String)
    fraction = func.substr(cast(chunk.issued_at, String), 20, type_=String)
    whole = (now - _EPOCH) // timedelta(seconds=1)
    return seconds + fraction > f"{whole}.{now.microsecond:06}"


def has_state(
    connection: Connection, states: tuple[str, ...], now: datetime
) -> ColumnElement[bool]:
    """Return the condition that a row of `grants` has one of these states at a time."""
    if USED_STATES.issuperset(states):  # no other state has to be distinguished
        return func.coalesce(*used_states(GRANT_KEY)).in_(states)
    return state_column(connection, now).in_(states)


def may_have_state(
    connection: Connection, states: tuple[str, ...], now: datetime
) -> ColumnElement[bool]:
    """Return a condition on `Batch` and `Chunk` that holds if an item may have one of the states.

    It skips chunks without reading their items: uses and settlements are few compared with grants.
    """
    conditions = [Chunk.issued > 0] if "unknown" in states else list[ColumnElement[bool]]()
    if USED_STATES.intersection(states):
        used: Select[Any] = select(_ONE).where(is_in_chunk(Use), *may_cause_state(states))
        conditions.append(used.correlate(Batch, Chunk).exists())
    if "unused" in states:
        unused: Select[Any] = select(_ONE).where(Settlement.batch_number == Chunk.batch_number)
        unused = unused.where(Settlement.chunk_number == Chunk.chunk_number)
        conditions.append(unused.where(Settlement.unused != "").correlate(Chunk).exists())
    if "open" in states:
        conditions.append(is_open(connection, now))
    return and_(Chunk.issued > 0, or_(*conditions))


def may_cause_state(states: tuple[str, ...]) -> Iterator[ColumnElement[bool]]:
    """Yield conditions on `Use` that a use fulfils which gives its grant one of these states."""
    conditions = list[ColumnElement[bool]]()
    is_stored = Use.event.in_(STORING)
    is_exception = Use.verdict != literal_column("'as_granted'")
    if "used" in states:
        conditions.append(or_(Use.event == DOWNLOADED, and_(is_stored, ~is_exception)))
    if "overwritten" in states:
        is_current = _is_current(GrantKey(Use.batch_number, Use.item_number))
        conditions.append(and_(is_stored, ~is_current))
    verdicts = [state for state in ("late", "mismatched") if state in states]
    if verdicts:
        conditions.append(and_(is_stored, Use.verdict.in_(verdicts)))
        if len(conditions) == 1:
            yield is_exception  # a partial index is used only if the statement has its condition
    yield or_(*conditions)
