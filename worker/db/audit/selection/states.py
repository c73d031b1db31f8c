"""The states of grants as SQL: the same as `grant_state` gives, without reading rows for it.

Expressions refer to one grant by its columns of batch and item number.
"""

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
from worker.core.uses.states import GrantState
from worker.core.uses.used_grant import SLOT_KINDS
from worker.db.audit.seconds import seconds_since_epoch
from worker.db.uses.item_ranges import contains_item
from worker.db.uses.states import DOWNLOADED, STORING

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
    """Return the state of a row of `grants` at a moment, NULL for a refused item."""
    chunk, batch = aliased(Chunk), aliased(Batch)
    idle = (
        select(idle_state(connection, now, GRANT_KEY, batch, chunk))
        .select_from(batch)
        .join(chunk, chunk.batch_number == batch.batch_number)
        .where(batch.batch_number == Grant.batch_number)
        .where(chunk.chunk_number == Grant.item_number // batch.chunk_size)
        .correlate(Grant)
        .scalar_subquery()
    )
    state = func.coalesce(*used_states(GRANT_KEY), idle)
    return case((Grant.code.is_(None), state), else_=null())


def used_states(key: GrantKey) -> tuple[ColumnElement[str | None], ...]:
    """Return the states that uses cause: the first one that is not NULL is the grant's."""
    table = key.batch_number.table
    is_current = (
        select(_ONE)
        .where(StoredObject.batch_number == key.batch_number)
        .where(StoredObject.item_number == key.item_number)
        .correlate_except(StoredObject)
        .exists()
    )
    is_of_grant = and_(Use.batch_number == key.batch_number, Use.item_number == key.item_number)
    is_as_granted = Use.verdict == literal_column("'as_granted'")
    state = case(
        (~is_current, literal_column("'overwritten'")),
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


def idle_state(
    connection: Connection, now: datetime, key: GrantKey, batch: Any = Batch, chunk: Any = Chunk
) -> ColumnElement[str]:
    """Return the state of a grant that no use tells of, from its batch and chunk."""
    is_unused = (
        select(_ONE)
        .where(Settlement.batch_number == chunk.batch_number)
        .where(Settlement.chunk_number == chunk.chunk_number)
        .where(contains_item(connection, Settlement.unused, key.item_number))
        .correlate_except(Settlement)
        .exists()
    )
    return case(
        (is_open(connection, now, chunk), literal_column("'open'")),
        (and_(batch.kind.in_(SLOT_KINDS), is_unused), literal_column("'unused'")),
        else_=literal_column("'unknown'"),
    )


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


def may_have_state(states: tuple[str, ...], now: datetime) -> ColumnElement[bool] | None:
    """Return a condition on `Batch` and `Chunk` that holds if an item has one of these states.

    Uses and settlements are few compared with grants. Returns None if every chunk may have one.
    """
    if "unknown" in states:
        return None
    conditions = list[ColumnElement[bool]]()
    if USED_STATES.intersection(states):
        used = select(Use.batch_number).where(Use.event.in_(USING_EVENTS))
        conditions.append(Batch.batch_number.in_(used))
    if "unused" in states:
        unused = select(Settlement.batch_number).where(Settlement.unused != "")
        conditions.append(Batch.batch_number.in_(unused))
    if "open" in states:
        conditions.append(Chunk.issued_at > now - LONGEST_VALIDITY)
    return and_(Chunk.issued > 0, or_(*conditions))
