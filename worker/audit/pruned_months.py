"""Reads the months that prunes removed."""

from datetime import datetime

from sqlalchemy import Connection, func, select

from models import Batch, Chunk, Prune
from worker.shared.months import first_moment, parse_month


def pruned_month(connection: Connection, since: datetime | None = None) -> str | None:
    """Return the month before which grants were removed; None if none were, or none after since."""
    before = connection.scalar(select(func.max(Prune.before)))
    if before is None or (since is not None and since >= first_moment(parse_month(before))):
        return None
    return str(before)


def pruned_item_month(connection: Connection, batch_number: int, item_number: int) -> str | None:
    """Return the month of the prune that removed a decided item; None if none did."""
    query = (
        select(Chunk.issued_at)
        .join(Batch, Batch.batch_number == Chunk.batch_number)
        .where(Chunk.batch_number == batch_number)
        .where(Chunk.chunk_number == item_number // Batch.chunk_size)
        .where(Batch.total > item_number)
    )
    issued_at = connection.scalar(query)
    return None if issued_at is None else pruned_month(connection, issued_at)
