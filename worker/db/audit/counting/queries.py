"""The statements that count items: over the counters of chunks, and over grants where needed."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    Select,
    and_,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
)

from models import Batch, Chunk, Grant, Settlement, Use
from worker.core.uses.used_grant import SLOT_KINDS
from worker.db.audit.counting.periods import Period, seconds_per_unit
from worker.db.audit.filters import (
    ISSUED,
    REFUSED,
    GrantFilter,
    batch_conditions,
    is_in_chunk,
    item_conditions,
)
from worker.db.audit.seconds import seconds_since_epoch
from worker.db.audit.selection.states import (
    USING_EVENTS,
    GrantKey,
    idle_state,
    is_open,
    state_column,
    used_states,
)
from worker.db.uses.item_ranges import count_items

Dimension = Literal[
    "tenant",
    "bucket",
    "kind",
    "decision",
    "code",
    "state",
    "requester",
    "recipient",
    "key",
    "hour",
    "day",
    "month",
]
Query = Select[*tuple[Any, ...]]
PERIODS: dict[str, Period] = {period: period for period in get_args(Period)}
HALF = 2**32
"""Bytes are summed in two halves: SQLite's sum() fails beyond 63 bits."""

_COLUMNS: dict[str, Any] = {
    "tenant": Batch.tenant,
    "bucket": Batch.bucket,
    "kind": Batch.kind,
    "requester": Batch.requested_by,
    "recipient": Batch.recipient,
    "key": Grant.object_key,
    "code": Grant.code,
}
KINDS_WITH_MAX_SIZE = ("upload", "put", "multipart")
_KINDS_WITH_EXACT_SIZE = ("put", "multipart")
_HALF = literal_column(str(HALF), BigInteger)


# The equation lets PostgreSQL join whole tables by hashes, the range lets an index be searched.
_IS_IN_CHUNK = and_(is_in_chunk(), Chunk.chunk_number == Grant.item_number // Batch.chunk_size)


class CountOptions(NamedTuple):
    """The columns to group by, the time zone of periods, the meaning of bytes, the time of states.

    With exact_bytes, a put or multipart counts with its own size instead of its batch's max_size.
    now is needed to group by state. Refused items have none.
    """

    by: tuple[Dimension, ...] = ()
    zone: tzinfo = UTC
    exact_bytes: bool = False
    now: datetime | None = None


def refusals_of(grant_filter: GrantFilter) -> tuple[str, ...]:
    """Return the decisions of a filter that are refusals; all of them, if it has no decisions."""
    decisions = grant_filter.decisions or (REFUSED,)
    return tuple(decision for decision in decisions if decision != ISSUED)


def count_queries(
    connection: Connection, grant_filter: GrantFilter, options: CountOptions
) -> Iterator[Query]:
    """Yield the statements whose rows, added up, are the count."""
    decisions = grant_filter.decisions
    conditions = [*batch_conditions(connection, grant_filter)]
    on_items = [*item_conditions(connection, grant_filter)]
    if replace(grant_filter, decisions=()).selects_items or "key" in options.by:
        yield _item_query(connection, options).where(*conditions, *on_items)
        return
    counts_issued = not decisions or ISSUED in decisions
    refusals = refusals_of(grant_filter)
    reads_codes = bool(refusals) and ("code" in options.by or REFUSED not in refusals)
    counts_refused = bool(refusals) and not reads_codes
    has_states = "state" in options.by
    if counts_issued and has_states:
        queries = _state_queries(connection, options, grant_filter.batch_id)
        yield from (query.where(*conditions) for query in queries)
    if counts_refused or (counts_issued and not has_states):
        issued = counts_issued and not has_states
        query = _chunk_query(options, issued=issued, refused=counts_refused)
        yield query.where(*conditions)
    if reads_codes:
        is_refused = Chunk.refused > 0, Grant.code.is_not(None)
        yield _item_query(connection, options).where(*conditions, *is_refused, *on_items)
    if counts_issued and options.exact_bytes:
        has_size = Batch.kind.in_(_KINDS_WITH_EXACT_SIZE), Chunk.issued > 0, Grant.code.is_(None)
        query = _item_query(connection, options, only_bytes=True)
        yield query.where(*conditions, *has_size)


def _chunk_query(options: CountOptions, *, issued: bool, refused: bool) -> Query:
    zero = literal_column("0", Integer)
    size = Chunk.issued * _max_size(exact=options.exact_bytes) if issued else zero
    columns = _chunk_columns(options, null())
    numbers = Chunk.issued if issued else zero, Chunk.refused if refused else zero
    query = select(*columns, *map(func.sum, numbers), *_sum_halves(size))
    query = query.select_from(Chunk).join(Batch, Batch.batch_number == Chunk.batch_number)
    return _group(query, columns)


def _state_queries(
    connection: Connection, options: CountOptions, batch_id: str | None
) -> Iterator[Query]:
    """Yield the statements that count issued items by state, of which few read single items.

    The first one counts all as if nothing was told of them, and each further pair moves some.
    """
    now, one = _moment(options), literal_column("1", Integer)
    is_alive = is_open(connection, now)
    yield _weighted_query(options, Chunk.issued, case((is_alive, "open"), else_="unknown"))
    unused = count_items(connection, Settlement.unused)
    is_chunk = and_(
        Settlement.batch_number == Chunk.batch_number,
        Settlement.chunk_number == Chunk.chunk_number,
    )
    has_unused = ~is_alive, Batch.kind.in_(SLOT_KINDS), Settlement.unused != ""
    for state, weight in (("unused", unused), ("unknown", -unused)):
        query = _weighted_query(options, weight, literal_column(f"'{state}'"))
        yield query.join(Settlement, is_chunk).where(*has_unused)
    used = select(Use.batch_number, Use.item_number).where(Use.event.in_(USING_EVENTS))
    if batch_id is not None:
        numbers = select(Batch.batch_number).where(Batch.batch_id == batch_id)
        used = used.where(Use.batch_number.in_(numbers))
    item = used.distinct().subquery()
    key = GrantKey(item.c.batch_number, item.c.item_number)
    is_item = and_(
        item.c.batch_number == Chunk.batch_number,
        item.c.item_number // Batch.chunk_size == Chunk.chunk_number,
    )
    by_use, idle = func.coalesce(*used_states(key)), idle_state(connection, now, key)
    for by_item, weight_ in ((by_use, one), (idle, -one)):
        yield _weighted_query(options, weight_, by_item).join(item, is_item)


def _weighted_query(options: CountOptions, weight: Any, state: Any) -> Query:
    """Return a SELECT that adds up weights as numbers of issued items of a state."""
    columns = _chunk_columns(options, state)
    size = weight * _max_size(exact=options.exact_bytes)
    numbers = func.sum(weight), literal_column("0", Integer)
    query = select(*columns, *numbers, *_sum_halves(size))
    query = query.select_from(Chunk).join(Batch, Batch.batch_number == Chunk.batch_number)
    return _group(query, columns)


def _chunk_columns(options: CountOptions, state: Any) -> list[Any]:
    of_items = {"code": null(), "state": state}
    return [
        of_items[name] if name in of_items else _column(name, options)
        for name in grouped_columns(options)
    ]


def _moment(options: CountOptions) -> datetime:
    if options.now is None:
        raise ValueError("a count by state needs the moment of the states")
    return options.now


def _item_query(
    connection: Connection, options: CountOptions, *, only_bytes: bool = False
) -> Query:
    zero, one = literal_column("0", Integer), literal_column("1", Integer)
    is_issued = Grant.code.is_(None)
    size = _max_size(exact=options.exact_bytes)
    if options.exact_bytes:
        own_size = cast(Grant.detail["size"].as_string(), BigInteger)
        size = case(
            (Batch.kind.in_(_KINDS_WITH_EXACT_SIZE), func.coalesce(own_size, 0)), else_=size
        )
    columns = [
        state_column(connection, _moment(options)) if name == "state" else _column(name, options)
        for name in grouped_columns(options)
    ]
    numbers = case((is_issued, one), else_=zero), case((is_issued, zero), else_=one)
    sums = (zero, zero) if only_bytes else map(func.sum, numbers)
    query = select(*columns, *sums, *_sum_halves(case((is_issued, size), else_=zero)))
    query = query.select_from(Chunk).join(Batch, Batch.batch_number == Chunk.batch_number)
    return _group(query.join(Grant, _IS_IN_CHUNK), columns)


def _group(query: Query, columns: list[Any]) -> Query:
    # By number: PostgreSQL takes an expression with parameters for another one if it is repeated.
    return query.group_by(*(literal_column(str(number + 1)) for number in range(len(columns))))


def grouped_columns(options: CountOptions) -> list[str]:
    """Return the columns that the statements have: all but the decision."""
    return [name for name in options.by if name != "decision"]


def _column(name: str, options: CountOptions) -> Any:
    if name not in PERIODS:
        return _COLUMNS[name]
    seconds = seconds_per_unit(PERIODS[name], options.zone)
    return seconds_since_epoch(Chunk.issued_at) // literal_column(str(seconds), BigInteger)


def _max_size(*, exact: bool) -> Any:
    """Return the number of bytes that each issued item of a batch lets its holder upload."""
    kinds = [
        kind for kind in KINDS_WITH_MAX_SIZE if not exact or kind not in _KINDS_WITH_EXACT_SIZE
    ]
    size = cast(Batch.terms["max_size"].as_string(), BigInteger)
    return case(
        (Batch.kind.in_(kinds), func.coalesce(size, 0)), else_=literal_column("0", BigInteger)
    )


def _sum_halves(size: Any) -> tuple[Any, Any]:
    return func.sum(size // _HALF), func.sum(size % _HALF)
