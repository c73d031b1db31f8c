"""Reads what the tables tell about the states of grants."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select

from models import Batch, Chunk, Grant, Settlement, StoredObject, Use
from worker.core.uses.item_ranges import parse_items
from worker.core.uses.states import StateFacts
from worker.core.uses.verdicts import STORING, Verdict

DOWNLOADED = "downloaded"


_PER_QUERY = 500


def read_state_facts(
    connection: Connection, batch_number: int, items: Collection[int]
) -> Mapping[int, StateFacts]:
    """Return the facts of the issued grants of a batch with these item numbers.

    Items that are refused, not decided yet or pruned are missing from the result.
    """
    numbers = sorted(set(items))
    facts: dict[int, StateFacts] = {}
    for start in range(0, len(numbers), _PER_QUERY):
        facts |= _read_part(connection, batch_number, numbers[start : start + _PER_QUERY])
    return facts


def _read_part(
    connection: Connection, batch_number: int, items: Sequence[int]
) -> Mapping[int, StateFacts]:
    verdicts = _stored_verdicts(connection, batch_number, items)
    downloads = _count_downloads(connection, batch_number, items)
    own = select(StoredObject.item_number).where(*_is_item(StoredObject, batch_number, items))
    current = set(connection.scalars(own))
    rows = _issued_grants(connection, batch_number, items)
    unused = _unused_items(connection, batch_number, {row.chunk_number for row in rows})
    return {
        row.item_number: StateFacts(
            kind=row.kind,
            expires_at=row.issued_at + timedelta(seconds=row.expires_in),
            stored_verdict=verdicts.get(row.item_number),
            downloads=downloads[row.item_number],
            # Each stored object gets the row of its key, which only a newer object takes over.
            is_replaced=row.item_number in verdicts and row.item_number not in current,
            is_settled=row.item_number in unused[row.chunk_number],
        )
        for row in rows
    }


def _issued_grants(
    connection: Connection, batch_number: int, items: Sequence[int]
) -> Sequence[Row[*tuple[Any, ...]]]:
    first = Chunk.chunk_number * Batch.chunk_size
    is_in_chunk = and_(
        Chunk.batch_number == Grant.batch_number,
        Grant.item_number >= first,
        Grant.item_number < first + Batch.chunk_size,
    )
    query = (
        select(Grant.item_number, Batch.kind, Chunk.chunk_number)
        .add_columns(Chunk.issued_at, Chunk.expires_in)
        .select_from(Grant)
        .join(Batch, Batch.batch_number == Grant.batch_number)
        .join(Chunk, is_in_chunk)
        .where(*_is_item(Grant, batch_number, items), Grant.code.is_(None))
    )
    return connection.execute(query).all()


def _unused_items(
    connection: Connection, batch_number: int, chunks: Collection[int]
) -> Mapping[int, Collection[int]]:
    """Return the items for which the settlements of these chunks found no object, by chunk."""
    query = select(Settlement.chunk_number, Settlement.unused).where(
        Settlement.batch_number == batch_number, Settlement.chunk_number.in_(chunks)
    )
    unused: defaultdict[int, set[int]] = defaultdict(set)
    for chunk, text in connection.execute(query):
        unused[chunk].update(*parse_items(text))
    return unused


def newest_stored(columns: Iterable[Any], *conditions: ColumnElement[bool]) -> Select[Any]:
    """Select the newest object that each grant of a batch stored: its item number and columns."""
    newest_first = (Use.occurred_at.desc(), Use.fingerprint.desc())
    rank = func.row_number().over(partition_by=Use.item_number, order_by=newest_first)
    ranked = select(Use.item_number, *columns, rank.label("rank"))
    uses = ranked.where(Use.event.in_(STORING), *conditions).subquery()
    return select(*(column for column in uses.c if column.name != "rank")).where(uses.c.rank == 1)


def _stored_verdicts(
    connection: Connection, batch_number: int, items: Sequence[int]
) -> Mapping[int, Verdict]:
    """Return the verdicts on the newest objects that grants stored."""
    query = newest_stored([Use.verdict], *_is_item(Use, batch_number, items))
    return {row.item_number: row.verdict for row in connection.execute(query)}


def _count_downloads(
    connection: Connection, batch_number: int, items: Sequence[int]
) -> Counter[int]:
    query = (
        select(Use.item_number, func.count().label("downloads"))
        .where(*_is_item(Use, batch_number, items), Use.event == DOWNLOADED)
        .group_by(Use.item_number)
    )
    return Counter({row.item_number: row.downloads for row in connection.execute(query)})


def _is_item(
    table: Any, batch_number: int, items: Sequence[int]
) -> tuple[ColumnElement[bool], ...]:
    return (
        table.batch_number == batch_number,
        table.item_number.in_(items),
    )
