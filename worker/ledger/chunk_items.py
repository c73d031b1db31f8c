"""Joins a chunk to the rows of its items, and reads these and the producer's texts about them."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, and_, bindparam, select

from models import Annotation, Batch, Chunk, Grant
from worker.base.database_engine import DriverStatement
from worker.rules.annotations import SaltedTexts

_READ_ITEMS = DriverStatement(
    select(Grant.item_number, Grant.object_key, Grant.code, Grant.detail, Grant.digest)
    .where(Grant.batch_number == bindparam("batch"))
    .where(Grant.item_number >= bindparam("first"), Grant.item_number < bindparam("stop"))
    .order_by(Grant.item_number)
)
_READ_ANNOTATIONS = DriverStatement(
    select(*Annotation.__table__.c)
    .where(Annotation.batch_number == bindparam("batch"))
    .where(Annotation.item_number >= bindparam("first"))
    .where(Annotation.item_number < bindparam("stop"))
)


class StorySubject(NamedTuple):
    """What a story is about: an item, or a batch without the fields of an item.

    decided_at is that of an item's chunk.
    """

    tenant: str
    batch_number: int
    batch_id: str
    bucket: str
    decided_at: datetime
    chunk_number: int | None = None
    item_number: int | None = None
    object_key: str = ""


def is_in_chunk(
    item: Any = Grant, chunk: Any = Chunk, chunk_batch: Any = None
) -> ColumnElement[bool]:
    """Return the condition that a row of an item is of a chunk, in a query that joins `Batch`.

    item and chunk are tables with the primary keys of `Grant` and `Chunk`. chunk_batch is an
    expression to compare instead of the batch number of the chunk.
    """
    first = chunk.chunk_number * Batch.chunk_size
    return and_(
        item.batch_number == (chunk.batch_number if chunk_batch is None else chunk_batch),
        item.item_number >= first,
        item.item_number < first + Batch.chunk_size,
    )


def read_items(connection: Connection, batch_number: int, items: range) -> list[Any]:
    """Read items of a batch: rows with the fields of `GrantRow`, in order."""
    params = {"batch": batch_number, "first": items.start, "stop": items.stop}
    return _READ_ITEMS.run(connection, params)


def read_annotations(
    connection: Connection, batch_number: int, items: range
) -> dict[int, SaltedTexts]:
    """Read the producer's texts about items of a batch, by item number."""
    params = {"batch": batch_number, "first": items.start, "stop": items.stop}
    rows = _READ_ANNOTATIONS.run(connection, params)
    return {number: SaltedTexts(*values) for _, number, *values in rows}
