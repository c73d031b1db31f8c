"""The columns by which items are counted, and the bytes that they let their holders upload."""

from datetime import UTC, datetime, tzinfo
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import BigInteger, Select, case, cast, func, literal_column, null

from models import Batch, Chunk, Grant
from worker.db.audit.counting.periods import Period, seconds_per_unit
from worker.db.audit.seconds import seconds_since_epoch

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
KINDS_WITH_EXACT_SIZE = ("put", "multipart")
"""The kinds whose items have a size of their own."""

_HALF = literal_column(str(HALF), BigInteger)


class CountOptions(NamedTuple):
    """The columns to group by, the time zone of periods, the meaning of bytes, the time of states.

    With exact_bytes, a put or multipart counts with its own size instead of its batch's max_size.
    now is needed to group by state. Refused items have none. Only batches with a greater number
    than after_batch are read.
    """

    by: tuple[Dimension, ...] = ()
    zone: tzinfo = UTC
    exact_bytes: bool = False
    now: datetime | None = None
    after_batch: int | None = None


def group_by_columns(query: Query, columns: list[Any]) -> Query:
    """Group a SELECT by its first columns."""
    # By number: PostgreSQL takes an expression with parameters for another one if it is repeated.
    return query.group_by(*(literal_column(str(number + 1)) for number in range(len(columns))))


def grouped_columns(options: CountOptions) -> list[str]:
    """Return the columns that the statements have: all but the decision."""
    return [name for name in options.by if name != "decision"]


def item_column(name: str, options: CountOptions) -> Any:
    """Return a column that needs no other rows than those of an item."""
    if name not in PERIODS:
        return _COLUMNS[name]
    seconds = seconds_per_unit(PERIODS[name], options.zone)
    return seconds_since_epoch(Chunk.issued_at) // literal_column(str(seconds), BigInteger)


def max_size(*, exact: bool) -> Any:
    """Return the number of bytes that each issued item of a batch lets its holder upload."""
    kinds = [kind for kind in KINDS_WITH_MAX_SIZE if not exact or kind not in KINDS_WITH_EXACT_SIZE]
    size = cast(Batch.terms["max_size"].as_string(), BigInteger)
    return case(
        (Batch.kind.in_(kinds), func.coalesce(size, 0)), else_=literal_column("0", BigInteger)
    )


def sum_halves(size: Any) -> tuple[Any, Any]:
    """Return the sums of both halves of a number of bytes."""
    return func.sum(size // _HALF), func.sum(size % _HALF)


def chunk_columns(options: CountOptions, state: Any) -> list[Any]:
    """Return the columns of a statement that reads no items, with the state that it counts."""
    of_items = {"code": null(), "state": state}
    return [
        of_items[name] if name in of_items else item_column(name, options)
        for name in grouped_columns(options)
    ]


def states_moment(options: CountOptions) -> datetime:
    """Return the moment of the states, which a count by state must have."""
    if options.now is None:
        raise ValueError("a count by state needs the moment of the states")
    return options.now
