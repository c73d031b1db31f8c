"""Reads the grants that have given states, by the positions that uses and settlements name."""

from collections.abc import Generator, Iterator, Sequence
from heapq import merge
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, Row, literal, select, tuple_

from models import Settlement, Use
from worker.core.uses.item_ranges import parse_items
from worker.db.audit.filters import GrantFilter
from worker.db.audit.selection.position_rows import read_rows_at
from worker.db.audit.selection.states import USED_STATES, may_cause_state
from worker.db.key_lookup.entries import Position

_LARGEST_READ = 256


def has_positions(grant_filter: GrantFilter) -> bool:
    """Return whether uses and settlements name all grants that a filter by state selects."""
    states = set(grant_filter.states)
    return bool(states) and states <= {*USED_STATES, "unused"}


def read_rows_of_states(
    connection: Connection,
    grant_filter: GrantFilter,
    columns: Sequence[Any],
    before: Position | None,
) -> Generator[Row[*tuple[Any, ...]], None, Position | None]:
    """Yield the rows of a filter with such states, newest first, while that is worth it.

    Returns None if these are all rows, or the position after which the caller has to scan.
    """
    streams = list[Iterator[Position]]()
    if USED_STATES.intersection(grant_filter.states):
        streams.append(_used_positions(connection, grant_filter, before))
    if "unused" in grant_filter.states:
        streams.append(_unused_positions(connection, before))
    # A slot that was used after its settlement is in both.
    positions = (position for position, _ in groupby(merge(*streams, reverse=True)))
    return (yield from read_rows_at(connection, grant_filter, columns, positions))


def _used_positions(
    connection: Connection, grant_filter: GrantFilter, before: Position | None
) -> Iterator[Position]:
    key = tuple_(Use.batch_number, Use.item_number)
    query = (
        select(Use.batch_number, Use.item_number)
        .where(*may_cause_state(grant_filter.states))
        .distinct()
        .order_by(Use.batch_number.desc(), Use.item_number.desc())
        .limit(_LARGEST_READ)
    )
    while True:
        later = () if before is None else (key < tuple_(*map(literal, before)),)
        block = [Position(*row) for row in connection.execute(query.where(*later))]
        yield from block
        if len(block) < _LARGEST_READ:
            return
        before = block[-1]


def _unused_positions(connection: Connection, before: Position | None) -> Iterator[Position]:
    key = tuple_(Settlement.batch_number, Settlement.chunk_number)
    query = (
        select(Settlement.batch_number, Settlement.chunk_number, Settlement.unused)
        .where(Settlement.unused != "")
        .order_by(Settlement.batch_number.desc(), Settlement.chunk_number.desc())
        .limit(_LARGEST_READ)
    )
    if before is not None:
        query = query.where(Settlement.batch_number <= before.batch_number)
    last: tuple[int, int] | None = None
    while True:
        later = () if last is None else (key < tuple_(*map(literal, last)),)
        rows = connection.execute(query.where(*later)).all()
        for batch_number, _, unused in rows:
            for position in _positions_in(batch_number, unused):
                if before is None or position < before:
                    yield position
        if len(rows) < _LARGEST_READ:
            return
        last = rows[-1].batch_number, rows[-1].chunk_number


def _positions_in(batch_number: int, unused: str) -> Iterator[Position]:
    """Yield the positions of ranges of items, the last one first."""
    for items in reversed(list(parse_items(unused))):
        for item in reversed(items):
            yield Position(batch_number, item)
