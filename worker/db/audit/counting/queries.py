"""The statements that count items: over the counters of chunks, and over grants where needed."""

from collections.abc import Iterator
from dataclasses import replace

from sqlalchemy import (
    BigInteger,
    Connection,
    Integer,
    and_,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
)

from models import Batch, Chunk, Grant
from worker.db.audit.counting.columns import (
    KINDS_WITH_EXACT_SIZE,
    CountOptions,
    Query,
    chunk_columns,
    group_by_columns,
    grouped_columns,
    item_column,
    max_size,
    states_moment,
    sum_halves,
)
from worker.db.audit.counting.states import state_queries
from worker.db.audit.filters import (
    ISSUED,
    REFUSED,
    GrantFilter,
    batch_conditions,
    is_in_chunk,
    item_conditions,
    scan_conditions,
)
from worker.db.audit.selection.states import state_column

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
    if replace(grant_filter, decisions=()).selects_items or "key" in options.by:
        yield _item_query(connection, options).where(*conditions, *on_items)
        return
    counts_issued = not decisions or ISSUED in decisions
    refusals = refusals_of(grant_filter)
    reads_codes = bool(refusals) and ("code" in options.by or REFUSED not in refusals)
    counts_refused = bool(refusals) and not reads_codes
    has_states = "state" in options.by
    if counts_issued and has_states:
        queries = state_queries(connection, options, grant_filter.batch_id)
        yield from (query.where(*conditions) for query in queries)
    issued = counts_issued and not has_states
    if counts_refused or issued:
        query = _chunk_query(options, issued=issued, refused=counts_refused)
        yield query.where(*conditions)
    if reads_codes:
        is_refused = Chunk.refused > 0, Grant.code.is_not(None)
        yield _item_query(connection, options).where(*conditions, *is_refused, *on_items)
    if counts_issued and options.exact_bytes:
        has_size = Batch.kind.in_(KINDS_WITH_EXACT_SIZE), Chunk.issued > 0, Grant.code.is_(None)
        query = _item_query(connection, options, only_bytes=True)
        yield query.where(*conditions, *has_size)


def _chunk_query(options: CountOptions, *, issued: bool, refused: bool) -> Query:
    zero = literal_column("0", Integer)
    size = Chunk.issued * max_size(exact=options.exact_bytes) if issued else zero
    columns = chunk_columns(options, null())
    numbers = Chunk.issued if issued else zero, Chunk.refused if refused else zero
    query = select(*columns, *map(func.sum, numbers), *sum_halves(size))
    query = query.select_from(Chunk).join(Batch, Batch.batch_number == Chunk.batch_number)
    return group_by_columns(query, columns)


def _item_query(
    connection: Connection, options: CountOptions, *, only_bytes: bool = False
) -> Query:
    zero, one = literal_column("0", Integer), literal_column("1", Integer)
    is_issued = Grant.code.is_(None)
    size = max_size(exact=options.exact_bytes)
    if options.exact_bytes:
        own_size = cast(Grant.detail["size"].as_string(), BigInteger)
        size = case((Batch.kind.in_(KINDS_WITH_EXACT_SIZE), func.coalesce(own_size, 0)), else_=size)
    columns = [
        state_column(connection, states_moment(options))
        if name == "state"
        else item_column(name, options)
        for name in grouped_columns(options)
    ]
    numbers = case((is_issued, one), else_=zero), case((is_issued, zero), else_=one)
    sums = (zero, zero) if only_bytes else map(func.sum, numbers)
    query = select(*columns, *sums, *sum_halves(case((is_issued, size), else_=zero)))
    query = query.select_from(Chunk).join(Batch, Batch.batch_number == Chunk.batch_number)
    return group_by_columns(query.join(Grant, _IS_IN_CHUNK), columns)
