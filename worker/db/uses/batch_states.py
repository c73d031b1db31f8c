"""Counts the facts of all grants of a batch, without reading each grant."""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Integer, and_, func, literal_column, select

from models import Batch, Chunk, Settlement, StoredObject, Use
from worker.core.uses.item_ranges import parse_items
from worker.core.uses.states import StateFacts
from worker.core.uses.verdicts import STORING
from worker.db.uses.states import DOWNLOADED, newest_stored

_COMMIT_TIME = timedelta(minutes=5)
"""The longest time from the time of a row until its transaction ends, and others see it."""


class BatchFacts(NamedTuple):
    """The facts of a batch's issued grants, counted, and the number of its refused items."""

    issued: Counter[StateFacts]
    refused: int


def count_state_facts(connection: Connection, batch_number: int, chunk_size: int) -> BatchFacts:
    """Count the facts of the issued grants of a batch, in its decided chunks.

    The facts are those that `read_state_facts` returns, except that downloads is at most 1, and
    is_settled false for grants with uses: neither changes a state.
    """
    chunks = connection.execute(_chunks(batch_number)).all()
    used: defaultdict[int, Counter[StateFacts]] = defaultdict(Counter)
    facts_of = {row.chunk_number: _facts(row) for row in chunks}
    for chunk, verdict, is_replaced, count in connection.execute(_stored(batch_number, chunk_size)):
        facts = facts_of[chunk]._replace(stored_verdict=verdict, is_replaced=is_replaced)
        used[chunk][facts] += count
    for chunk, count in connection.execute(_downloaded(batch_number, chunk_size)):
        used[chunk][facts_of[chunk]._replace(downloads=1)] += count
    issued: Counter[StateFacts] = Counter()
    settled = [row.settled_at for row in chunks if row.settled_at is not None]
    late = _late_items(connection, batch_number, chunk_size, settled)
    for row in chunks:
        chunk_counts, facts = used[row.chunk_number], facts_of[row.chunk_number]
        issued += chunk_counts
        parts = list(parse_items(row.unused or ""))
        used_late = late.get(row.chunk_number, ())
        unused = sum(map(len, parts)) - sum(item in part for part in parts for item in used_late)
        issued[facts._replace(is_settled=True)] += unused
        issued[facts] += row.issued - chunk_counts.total() - unused
    return BatchFacts(+issued, sum(row.refused for row in chunks))


def _facts(row: Any) -> StateFacts:
    expires_at = row.issued_at + timedelta(seconds=row.expires_in)
    return StateFacts(row.kind, expires_at)


def _late_items(
    connection: Connection, batch_number: int, chunk_size: int, settled: Collection[datetime]
) -> Mapping[int, list[int]]:
    """Return the items whose uses their settlement may not have seen, by chunk, as few are."""
    late: defaultdict[int, list[int]] = defaultdict(list)
    if settled:
        query = (
            select(Use.item_number)
            .where(Use.batch_number == batch_number, Use.event.in_(STORING))
            .where(Use.recorded_at >= min(settled) - _COMMIT_TIME)
            .distinct()
        )
        for item in connection.scalars(query):
            late[item // chunk_size].append(item)
    return late


def _chunks(batch_number: int) -> Any:
    is_settlement = and_(
        Settlement.batch_number == Chunk.batch_number,
        Settlement.chunk_number == Chunk.chunk_number,
    )
    return (
        select(Chunk.chunk_number, Chunk.issued, Chunk.refused, Chunk.issued_at, Chunk.expires_in)
        .add_columns(Batch.kind, Settlement.unused, Settlement.settled_at)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .outerjoin(Settlement, is_settlement)
        .where(Chunk.batch_number == batch_number)
    )


def _stored(batch_number: int, chunk_size: int) -> Any:
    """Count the grants that stored an object by chunk, newest verdict, and replacement."""
    newest = newest_stored([Use.verdict], Use.batch_number == batch_number).subquery()
    own = (
        select(StoredObject.item_number)
        .where(StoredObject.batch_number == batch_number)
        .distinct()
        .subquery()
    )
    chunk = _chunk_of(newest.c.item_number, chunk_size)
    is_replaced = own.c.item_number.is_(None)
    return (
        select(chunk, newest.c.verdict, is_replaced, func.count())
        .select_from(newest.outerjoin(own, own.c.item_number == newest.c.item_number))
        .group_by(chunk, newest.c.verdict, is_replaced)
    )


def _downloaded(batch_number: int, chunk_size: int) -> Any:
    chunk = _chunk_of(Use.item_number, chunk_size)
    return (
        select(chunk, func.count(Use.item_number.distinct()))
        .where(Use.batch_number == batch_number, Use.event == DOWNLOADED)
        .group_by(chunk)
    )


def _chunk_of(item_number: Any, chunk_size: int) -> Any:
    # A literal: PostgreSQL groups by no expression that has a parameter.
    return item_number // literal_column(str(chunk_size), Integer)
