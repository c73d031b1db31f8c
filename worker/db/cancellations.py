"""The transaction that ends a batch."""

from datetime import datetime

from sqlalchemy import Connection, func, select

from models import Batch, Cancellation, Chunk
from valetkey.wire.messages import Cancelled, CancelMessage
from worker.db import reservations
from worker.db.batches import lock_batch
from worker.db.bulk_insert import insert_once


def cancel_batch(
    connection: Connection, message: CancelMessage, key: str | None, now: datetime
) -> Cancelled:
    """Remember that a batch is cancelled, and release what its chunks to come had reserved."""
    lock_batch(connection, message.tenant, message.batch)  # a first chunk finds this, or is found
    said = message.model_dump(include={"tenant", "batch", "requested_by", "reason"})
    insert_once(connection, Cancellation, {**said, "key": key, "at": now})
    one = (Batch.tenant == message.tenant, Batch.id == message.batch)
    number = connection.scalar(select(Batch.number).where(*one))
    if number is None:
        return Cancelled(batch=message.batch, issued=0, released=0)
    released = reservations.close_batch(connection, number, message.tenant)
    issued = connection.scalar(select(func.sum(Chunk.issued)).where(Chunk.batch == number))
    return Cancelled(batch=message.batch, issued=issued or 0, released=released.items)
