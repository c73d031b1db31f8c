"""Counts issued and refused items by any combination of columns, states and periods.

The counters of chunks answer what concerns whole chunks. Grants are read only where a column or a
filter of single items requires it.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, tzinfo
from functools import cache
from typing import Any, Literal, NamedTuple, get_args

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Integer,
    Select,
    Subquery,
    and_,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
    union_all,
)

from models import Batch, Chunk, Grant, Settlement, Use
from worker.audit.grant_filters import (
    ISSUED,
    REFUSED,
    GrantFilter,
    batch_conditions,
    item_conditions,
    moment_of_states,
    scan_conditions,
)
from worker.audit.state_conditions import (
    USING_EVENTS,
    GrantKey,
    count_unused,
    is_open,
    state_column,
    used_states,
)
from worker.audit.text_conditions import (
    batch_text,
    has_own_texts,
    item_text,
    matches_text,
    shown_text,
)
from worker.rules.annotations import ANNOTATION_FIELDS, TextName
from worker.rules.issued_grants import SLOT_KINDS
from worker.shared.grant_items import is_in_chunk
from worker.shared.pages import seconds_since_epoch

Period = Literal["hour", "day", "month"]

_OFFSET_UNIT = 900  # every time zone in use differs from UTC by a multiple of 15 minutes
_UTC_UNITS: dict[Period, int] = {"hour": 3_600, "day": 86_400, "month": 86_400}


def seconds_per_unit(period: Period, zone: tzinfo) -> int:
    """Return the length in seconds of the units that make up each period of a zone.

    Units are counted from 1970-01-01 in UTC, so that a database without time zones can group by
    them.
    """
    return _UTC_UNITS[period] if str(zone) == "UTC" else _OFFSET_UNIT


def describe_unit(period: Period, zone: tzinfo, unit: int) -> str:
    """Return the name of the period that contains a unit.

    A day is like `2026-11-24`, a month like `2026-11`. An hour has its offset from UTC, like
    `2026-11-24T08:00+01:00`: when summer time ends, two hours have the same time of day.
    """
    start = datetime.fromtimestamp(unit * seconds_per_unit(period, zone), zone)
    if period == "hour":
        return start.replace(minute=0).isoformat(timespec="minutes").replace("+00:00", "Z")
    day = start.date().isoformat()
    return day if period == "day" else day[:7]


Dimension = Literal[
    "tenant", "bucket", "kind", "decision", "code", "state", "requester", TextName, "key", Period
]
Query = Select[*tuple[Any, ...]]
PERIODS: dict[str, Period] = {period: period for period in get_args(Period)}
HALF = 2**32
"""Bytes are summed in two halves: SQLite's sum() fails beyond 63 bits."""

_COLUMNS: dict[str, Any] = {
    **{name: getattr(Batch, name) for name in ("tenant", "bucket", "kind")},
    "requester": shown_text(Batch, "requested_by"),
    "key": Grant.object_key,
    "code": Grant.code,
}
KINDS_WITH_EXACT_SIZE = ("put", "multipart")
"""The kinds whose items have a size of their own."""

_HALF = literal_column(str(HALF), BigInteger)
_ZERO, _ONE, _NULL = literal_column("0", Integer), literal_column("1", Integer), null()


class CountOptions(NamedTuple):
    """The columns to group by, the time zone of periods, and the meaning of bytes.

    With exact_bytes, a put or multipart counts with its own size instead of its batch's max_size.
    Only batches with a greater number than after_batch are read.
    """

    by: tuple[Dimension, ...] = ()
    zone: tzinfo = UTC
    exact_bytes: bool = False
    after_batch: int | None = None

    @property
    def columns(self) -> list[str]:
        """The columns that the statements have: all but the decision."""
        return [name for name in self.by if name != "decision"]


def item_column(name: str, options: CountOptions, text: Callable[[str], Any] = item_text) -> Any:
    """Return a column that needs no other rows than those of an item; text returns its texts."""
    if name in ANNOTATION_FIELDS:
        return text(name)
    if name not in PERIODS:
        return _COLUMNS[name]
    seconds = seconds_per_unit(PERIODS[name], options.zone)
    return seconds_since_epoch(Chunk.issued_at) // literal_column(str(seconds), BigInteger)


def max_size(*, exact: bool) -> Any:
    """Return the number of bytes that each issued item of a batch lets its holder upload."""
    kinds = [kind for kind in SLOT_KINDS if not exact or kind not in KINDS_WITH_EXACT_SIZE]
    size = cast(Batch.terms["max_size"].as_string(), BigInteger)
    return case(
        (Batch.kind.in_(kinds), func.coalesce(size, 0)), else_=literal_column("0", BigInteger)
    )


def state_queries(
    connection: Connection, grant_filter: GrantFilter, options: CountOptions
) -> Iterator[Query]:
    """Yield the statements that count issued items by state. Add up the counts of all of them.

    The first one counts all items as if no use was reported. Each further pair moves some of them
    to another state: one adds them there, the other subtracts them. Few statements read
    single items.
    """
    is_alive = is_open(connection, moment_of_states(grant_filter))
    unreported = case((is_alive, literal_column("'open'")), else_=literal_column("'unknown'"))
    yield _chunk_query(options, Chunk.issued, state=unreported)
    unused = count_unused(connection)
    is_chunk = and_(
        Settlement.batch_number == Chunk.batch_number,
        Settlement.chunk_number == Chunk.chunk_number,
    )
    has_unused = [~is_alive, Batch.kind.in_(SLOT_KINDS), Settlement.unused != ""]
    if options.after_batch is not None:
        has_unused.append(Settlement.batch_number > options.after_batch)
    for name, weight in (("unused", unused), ("unknown", -unused)):
        query = _chunk_query(options, weight, state=literal_column(f"'{name}'"))
        yield query.join(Settlement, is_chunk).where(*has_unused)
    by_item, by_chunk = _used_items(options, grant_filter.batch_id)
    key = GrantKey(by_item.c.batch_number, by_item.c.item_number)
    for part, state, weight in (
        (by_item, func.coalesce(*used_states(key)), _ONE),
        (by_chunk, unreported, -by_chunk.c.used_items),
    ):
        is_part = and_(
            part.c.batch_number == Chunk.batch_number, part.c.chunk_number == Chunk.chunk_number
        )
        yield _chunk_query(options, weight, state=state).join(part, is_part)


def _used_items(options: CountOptions, batch_id: str | None) -> tuple[Subquery, Subquery]:
    """Return all used items with their chunks, and their number by chunk.

    The number of the chunk is a column, so that chunks are searched by it.
    """
    chunk_number = (Use.item_number // Batch.chunk_size).label("chunk_number")
    used = (
        select(Use.batch_number, chunk_number, Use.item_number)
        .join(Batch, Batch.batch_number == Use.batch_number)
        .where(Use.event.in_(USING_EVENTS))
        .distinct()
    )
    if batch_id is not None:
        used = used.where(Batch.batch_id == batch_id)
    if options.after_batch is not None:  # on both: PostgreSQL infers no range of the other
        used = used.where(Use.batch_number > options.after_batch)
        used = used.where(Batch.batch_number > options.after_batch)
    item = used.subquery()
    numbers = item.c.batch_number, item.c.chunk_number
    by_chunk = select(*numbers, func.count().label("used_items")).group_by(*numbers)
    return item, by_chunk.subquery()


# The equation lets PostgreSQL join whole tables by hashes, the range lets an index be searched.
_IS_IN_CHUNK = and_(is_in_chunk(), Chunk.chunk_number == Grant.item_number // Batch.chunk_size)


def refusals_of(grant_filter: GrantFilter) -> tuple[str, ...]:
    """Return the decisions of a filter that are refusals; all of them, if it has no decisions."""
    decisions = grant_filter.decisions or (REFUSED,)
    return tuple(decision for decision in decisions if decision != ISSUED)


def count_queries(
    connection: Connection, grant_filter: GrantFilter, options: CountOptions
) -> Iterator[Query]:
    """Yield the statements whose rows, added up, are the count."""
    decisions = grant_filter.decisions
    conditions = [
        *batch_conditions(connection, grant_filter),
        *scan_conditions(connection, grant_filter),
    ]
    if options.after_batch is not None:
        numbers = Batch.batch_number, Chunk.batch_number  # each has an index
        conditions += [number > options.after_batch for number in numbers]
    on_items = [*item_conditions(connection, grant_filter)]
    of_items = _item_query(connection, grant_filter, options).where(*on_items)
    if replace(grant_filter, decisions=()).selects_items or "key" in options.by:
        yield of_items.where(*conditions)
        return
    if grant_filter.texts or not set(ANNOTATION_FIELDS).isdisjoint(options.by):
        yield of_items.where(*conditions, has_own_texts())
        conditions += _batch_text_conditions(connection, grant_filter)
    counts_issued = not decisions or ISSUED in decisions
    refusals = refusals_of(grant_filter)
    reads_codes = bool(refusals) and ("code" in options.by or REFUSED not in refusals)
    counts_refused = bool(refusals) and not reads_codes
    has_states = counts_issued and "state" in options.by
    if has_states:
        queries = state_queries(connection, grant_filter, options)
        yield from (query.where(*conditions) for query in queries)
    issued = Chunk.issued if counts_issued and not has_states else _ZERO
    refused = Chunk.refused if counts_refused else _ZERO
    if issued is not _ZERO or refused is not _ZERO:
        yield _chunk_query(options, issued, refused).where(*conditions)
    if reads_codes:
        yield of_items.where(*conditions, Chunk.refused > 0, Grant.code.is_not(None))
    if counts_issued and options.exact_bytes:
        has_size = Batch.kind.in_(KINDS_WITH_EXACT_SIZE), Chunk.issued > 0, Grant.code.is_(None)
        query = _item_query(connection, grant_filter, options, only_bytes=True)
        yield query.where(*conditions, *has_size)


def _batch_text_conditions(
    connection: Connection, grant_filter: GrantFilter
) -> Iterator[ColumnElement[bool]]:
    """Yield the conditions that items have no texts but those of their batch, which match."""
    yield ~has_own_texts()
    for name, pattern in grant_filter.texts.items():
        yield matches_text(connection, batch_text(name), pattern)


def _chunk_query(
    options: CountOptions, issued: Any, refused: Any = _ZERO, state: Any = _NULL
) -> Query:
    """Return a SELECT that reads no items, with the numbers of a chunk and the state of them."""
    of_items = {"code": _NULL, "state": state}
    columns = [
        of_items[name] if name in of_items else item_column(name, options, batch_text)
        for name in options.columns
    ]
    size = _ZERO if issued is _ZERO else issued * max_size(exact=options.exact_bytes)
    return _sum_query(columns, (issued, refused), size)


def _item_query(
    connection: Connection,
    grant_filter: GrantFilter,
    options: CountOptions,
    *,
    only_bytes: bool = False,
) -> Query:
    is_issued = Grant.code.is_(None)
    size = max_size(exact=options.exact_bytes)
    if options.exact_bytes:
        own_size = cast(Grant.detail["size"].as_string(), BigInteger)
        size = case((Batch.kind.in_(KINDS_WITH_EXACT_SIZE), func.coalesce(own_size, 0)), else_=size)
    columns = [
        state_column(connection, moment_of_states(grant_filter))
        if name == "state"
        else item_column(name, options)
        for name in options.columns
    ]
    issued, refused = case((is_issued, _ONE), else_=_ZERO), case((is_issued, _ZERO), else_=_ONE)
    numbers = (_ZERO, _ZERO) if only_bytes else (issued, refused)
    query = _sum_query(columns, numbers, case((is_issued, size), else_=_ZERO))
    return query.join(Grant, _IS_IN_CHUNK)


def _sum_query(columns: list[Any], numbers: tuple[Any, Any], size: Any) -> Query:
    """Return a SELECT of sums by columns, from chunks and their batches."""
    # The size in two halves: see HALF.
    sums = map(func.sum, (*numbers, size // _HALF, size % _HALF))
    query = select(*columns, *sums).select_from(Chunk)
    query = query.join(Batch, Batch.batch_number == Chunk.batch_number)
    # By number: PostgreSQL takes an expression with parameters for another one if it is repeated.
    return query.group_by(*(literal_column(str(number + 1)) for number in range(len(columns))))


SortOrder = Literal["total", "issued", "refused", "bytes"]
Group = tuple[str | None, ...]

DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
MAX_GROUPS = 1_000_000
_ROWS_PER_READ = 10_000


class ItemCount(NamedTuple):
    """The numbers of issued and refused items of one group, and the bytes of the issued ones.

    group has a value for each column that was asked for, in the same order. bytes is the largest
    amount that the issued grants let their holders upload.
    """

    group: Group
    issued: int
    refused: int
    bytes: int

    @property
    def total(self) -> int:
        """The number of all items."""
        return self.issued + self.refused


class TooManyGroups(ValueError):
    """A count has more than MAX_GROUPS groups."""


def count_items(
    connection: Connection, grant_filter: GrantFilter, options: CountOptions
) -> list[ItemCount]:
    """Count the items that match a filter, in the order of their groups.

    To group by state, the filter needs the time of the states. Refused items have no state.
    Raises TooManyGroups.
    """
    sums: dict[Group, list[int]] = {}
    for query in count_queries(connection, grant_filter, options):
        with closing(_read_groups(connection, query, options)) as groups:
            for group, numbers in groups:
                totals = sums.setdefault(group, [0, 0, 0])
                for index, number in enumerate(numbers):
                    totals[index] += number
                if len(sums) > MAX_GROUPS:
                    raise TooManyGroups
    counts = list(_take_counts(sums))
    counts.sort(key=lambda count: tuple([(value is not None, value) for value in count.group]))
    return counts


def _take_counts(sums: dict[Group, list[int]]) -> Iterator[ItemCount]:
    """Yield the counts of the groups, and remove those: a million of both take 150 MB more."""
    while sums:
        group, numbers = sums.popitem()
        if any(numbers[:2]):
            yield ItemCount(group, *numbers)


def top_items(
    connection: Connection,
    grant_filter: GrantFilter,
    dimension: Dimension,
    limit: int,
    sort: SortOrder = "total",
) -> list[ItemCount]:
    """Count items by one column, and return the largest counts, largest first.

    Codes are those of refused items: issued ones have none. The database sorts and limits, so the
    number of groups has no bound. Not for the decision, and not for periods.
    """
    options = CountOptions((dimension,))
    if dimension == "code":
        grant_filter = replace(grant_filter, decisions=refusals_of(grant_filter))
        if not grant_filter.decisions:
            return []
    parts = union_all(*count_queries(connection, grant_filter, options)).subquery()
    group = parts.c[0]
    issued, refused, high, low = (func.sum(column) for column in parts.c[1:])
    orders: dict[SortOrder, tuple[ColumnElement[int], ...]] = {
        "total": (issued + refused,),
        "issued": (issued,),
        "refused": (refused,),
        "bytes": (high + low // _HALF, low % _HALF),
    }
    order = (*(column.desc() for column in orders[sort]), group)
    sums = select(group, issued, refused, high, low).group_by(group).having(issued + refused > 0)
    query = sums.order_by(*order).limit(limit)
    return [ItemCount(key, *numbers) for key, numbers in _read_groups(connection, query, options)]


def _read_groups(
    connection: Connection, query: Query, options: CountOptions
) -> Generator[tuple[Group, tuple[int, int, int]], None, None]:
    labels = [_label(name, options.zone) for name in options.columns]
    split_at = options.by.index("decision") if "decision" in options.by else None
    with connection.execute(query, execution_options={"yield_per": _ROWS_PER_READ}) as rows:
        for row in rows:
            issued, refused, high, low = (int(value or 0) for value in row[-4:])
            group = tuple([label(value) for label, value in zip(labels, row[:-4], strict=True)])
            size = high * HALF + low
            if split_at is None:
                yield group, (issued, refused, size)
                continue
            before, after = group[:split_at], group[split_at:]
            yield (*before, "issued", *after), (issued, 0, size)
            yield (*before, "refused", *after), (0, refused, 0)


def _label(name: str, zone: tzinfo) -> Callable[[Any], str | None]:
    """Return the function that turns a value of a column into that of a group."""
    period = PERIODS.get(name)
    if period is None:
        return lambda value: value
    return cache(lambda unit: describe_unit(period, zone, int(unit)))
