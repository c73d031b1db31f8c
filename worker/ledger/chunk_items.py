"""Joins a chunk to the rows of its items, and reads the producer's texts about these."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, select

from models import Annotation, Batch, Chunk, Grant
from worker.core.annotations import SaltedTexts


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


def read_annotations(
    connection: Connection, batch_number: int, items: range
) -> dict[int, SaltedTexts]:
    """Read the producer's texts about items of a batch, by item number."""
    rows = connection.execute(
        select(*Annotation.__table__.c)
        .where(Annotation.batch_number == batch_number)
        .where(Annotation.item_number >= items.start, Annotation.item_number < items.stop)
    )
    return {number: SaltedTexts(*values) for _, number, *values in rows}
