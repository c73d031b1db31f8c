"""Reads what the tables tell about the states of grants."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, Row, and_, func, literal, select

from models import Batch, Chunk, Grant, Settlement, StoredObject, Use
from worker.core.uses.states import StateFacts
from worker.core.uses.verdicts import STORING, Verdict
from worker.db.uses.item_ranges import contains_item

DOWNLOADED = "downloaded"


def read_state_facts(
    connection: Connection, batch_number: int, items: range
) -> Mapping[int, StateFacts]:
    """Return the facts of the issued grants of a batch with these item numbers.

    Items that are refused, not decided yet or pruned are missing from the result. items has no
    step.
    """
    verdicts = _stored_verdicts(connection, batch_number, items)
    downloads = _count_downloads(connection, batch_number, items)
    own = select(StoredObject.item_number).where(*_is_item(StoredObject, batch_number, items))
    current = set(connection.scalars(own))
    return {
        row.item_number: StateFacts(
            kind=row.kind,
            expires_at=row.issued_at + timedelta(seconds=row.expires_in),
            stored_verdict=verdicts.get(row.item_number),
            downloads=downloads[row.item_number],
            # Each stored object gets the row of its key, which only a newer object takes over.
            is_replaced=row.item_number in verdicts and row.item_number not in current,
            is_settled=row.is_settled,
        )
        for row in _issued_grants(connection, batch_number, items)
    }


def _issued_grants(
    connection: Connection, batch_number: int, items: range
) -> Iterable[Row[*tuple[Any, ...]]]:
    first = Chunk.chunk_number * Batch.chunk_size
    is_in_chunk = and_(
        Chunk.batch_number == Grant.batch_number,
        Grant.item_number >= first,
        Grant.item_number < first + Batch.chunk_size,
    )
    is_settled = (
        select(literal(1))
        .where(Settlement.batch_number == Chunk.batch_number)
        .where(Settlement.chunk_number == Chunk.chunk_number, Settlement.unused != "")
        .where(contains_item(connection, Settlement.unused, Grant.item_number))
        .correlate_except(Settlement)
        .exists()
    )
    query = (
        select(Grant.item_number, Batch.kind, Chunk.issued_at, Chunk.expires_in)
        .add_columns(is_settled.label("is_settled"))
        .select_from(Grant)
        .join(Batch, Batch.batch_number == Grant.batch_number)
        .join(Chunk, is_in_chunk)
        .where(*_is_item(Grant, batch_number, items), Grant.code.is_(None))
    )
    return connection.execute(query)


def _stored_verdicts(
    connection: Connection, batch_number: int, items: range
) -> Mapping[int, Verdict]:
    """Return the verdicts on the newest objects that grants stored."""
    query = (
        select(Use.item_number, Use.verdict)
        .where(*_is_item(Use, batch_number, items), Use.event.in_(STORING))
        .order_by(Use.occurred_at, Use.fingerprint)
    )
    # The newest is the last one.
    return {row.item_number: row.verdict for row in connection.execute(query)}


def _count_downloads(connection: Connection, batch_number: int, items: range) -> Counter[int]:
    query = (
        select(Use.item_number, func.count().label("downloads"))
        .where(*_is_item(Use, batch_number, items), Use.event == DOWNLOADED)
        .group_by(Use.item_number)
    )
    return Counter({row.item_number: row.downloads for row in connection.execute(query)})


def _is_item(table: Any, batch_number: int, items: range) -> tuple[ColumnElement[bool], ...]:
    return (
        table.batch_number == batch_number,
        table.item_number >= items.start,
        table.item_number < items.stop,
    )
