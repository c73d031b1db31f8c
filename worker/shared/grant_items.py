"""Joins a chunk to the rows of its items, and names what a story is about."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_

from models import Batch, Chunk, Grant


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
