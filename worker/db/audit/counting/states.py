"""The statements that count issued items by state."""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import (
    Connection,
    Integer,
    Subquery,
    and_,
    case,
    func,
    literal_column,
    select,
)

from models import Batch, Chunk, Settlement, Use
from worker.core.uses.used_grant import SLOT_KINDS
from worker.db.audit.counting.columns import (
    CountOptions,
    Query,
    chunk_columns,
    group_by_columns,
    max_size,
    states_moment,
    sum_halves,
)
from worker.db.audit.selection.states import (
    USING_EVENTS,
    GrantKey,
    count_unused,
    is_open,
    used_states,
)


def state_queries(
    connection: Connection, options: CountOptions, batch_id: str | None
) -> Iterator[Query]:
    """Yield the statements that count issued items by state, of which few read single items.

    The first one counts all as if nothing was told of them, and each further pair moves some.
    """
    now, one = states_moment(options), literal_column("1", Integer)
    is_alive = is_open(connection, now)
    yield _weighted_query(options, Chunk.issued, case((is_alive, "open"), else_="unknown"))
    unused = count_unused(connection)
    is_chunk = and_(
        Settlement.batch_number == Chunk.batch_number,
        Settlement.chunk_number == Chunk.chunk_number,
    )
    has_unused = [~is_alive, Batch.kind.in_(SLOT_KINDS), Settlement.unused != ""]
    if options.after_batch is not None:
        has_unused.append(Settlement.batch_number > options.after_batch)
    for state, weight in (("unused", unused), ("unknown", -unused)):
        query = _weighted_query(options, weight, literal_column(f"'{state}'"))
        yield query.join(Settlement, is_chunk).where(*has_unused)
    by_item, by_chunk = _used_items(options, batch_id)
    key = GrantKey(by_item.c.batch_number, by_item.c.item_number)
    before = case((is_alive, literal_column("'open'")), else_=literal_column("'unknown'"))
    for part, state_, weight_ in (
        (by_item, func.coalesce(*used_states(key)), one),
        (by_chunk, before, -by_chunk.c.used_items),
    ):
        is_part = and_(
            part.c.batch_number == Chunk.batch_number, part.c.chunk_number == Chunk.chunk_number
        )
        yield _weighted_query(options, weight_, state_).join(part, is_part)


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


def _weighted_query(options: CountOptions, weight: Any, state: Any) -> Query:
    """Return a SELECT that adds up weights as numbers of issued items of a state."""
    columns = chunk_columns(options, state)
    size = weight * max_size(exact=options.exact_bytes)
    numbers = func.sum(weight), literal_column("0", Integer)
    query = select(*columns, *numbers, *sum_halves(size))
    query = query.select_from(Chunk).join(Batch, Batch.batch_number == Chunk.batch_number)
    return group_by_columns(query, columns)
