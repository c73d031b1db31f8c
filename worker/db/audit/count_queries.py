"""The statements that count items: over the counters of chunks, and over grants where needed."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, tzinfo
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

from models import Batch, Chunk, Grant
from worker.db.audit.filters import (
    ISSUED,
    REFUSED,
    GrantFilter,
    batch_conditions,
    is_in_chunk,
    item_conditions,
)
from worker.db.audit.periods import Period, seconds_per_unit
from worker.db.audit.seconds import seconds_since_epoch

Dimension = Literal[
    "tenant",
    "bucket",
    "kind",
    "decision",
    "code",
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
    """The columns to group by, the time zone of periods, and the meaning of bytes.

    With exact_bytes, a put or multipart counts with its own size instead of its batch's max_size.
    """

    by: tuple[Dimension, ...] = ()
    zone: tzinfo = UTC
    exact_bytes: bool = False


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
        yield _item_query(options).where(*conditions, *on_items)
        return
    counts_issued = not decisions or ISSUED in decisions
    refusals = refusals_of(grant_filter)
    reads_codes = bool(refusals) and ("code" in options.by or REFUSED not in refusals)
    counts_refused = bool(refusals) and not reads_codes
    if counts_issued or counts_refused:
        query = _chunk_query(options, issued=counts_issued, refused=counts_refused)
        yield query.where(*conditions)
    if reads_codes:
        is_refused = Chunk.refused > 0, Grant.code.is_not(None)
        yield _item_query(options).where(*conditions, *is_refused, *on_items)
    if counts_issued and options.exact_bytes:
        has_size = Batch.kind.in_(_KINDS_WITH_EXACT_SIZE), Chunk.issued > 0, Grant.code.is_(None)
        yield _item_query(options, only_bytes=True).where(*conditions, *has_size)


def _chunk_query(options: CountOptions, *, issued: bool, refused: bool) -> Query:
    zero = literal_column("0", Integer)
    size = Chunk.issued * _max_size(exact=options.exact_bytes) if issued else zero
    columns = [
        null() if name == "code" else _column(name, options) for name in grouped_columns(options)
    ]
    numbers = Chunk.issued if issued else zero, Chunk.refused if refused else zero
    query = select(*columns, *map(func.sum, numbers), *_sum_halves(size))
    query = query.select_from(Chunk).join(Batch, Batch.batch_number == Chunk.batch_number)
    return _group(query, columns)


def _item_query(options: CountOptions, *, only_bytes: bool = False) -> Query:
    zero, one = literal_column("0", Integer), literal_column("1", Integer)
    is_issued = Grant.code.is_(None)
    size = _max_size(exact=options.exact_bytes)
    if options.exact_bytes:
        own_size = cast(Grant.detail["size"].as_string(), BigInteger)
        size = case(
            (Batch.kind.in_(_KINDS_WITH_EXACT_SIZE), func.coalesce(own_size, 0)), else_=size
        )
    columns = [_column(name, options) for name in grouped_columns(options)]
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
