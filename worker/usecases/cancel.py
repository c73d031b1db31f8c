"""Cancels a batch: nothing more of it is issued, and the rest of its reservation is released."""

from datetime import datetime

from sqlalchemy import Connection

from valetkey.wire.messages import CancelMessage
from valetkey.wire.replies import Cancelled, Outcome
from worker.context import Context
from worker.core.auth.claimed_chunk import message_digest
from worker.core.policy.uncharged import MESSAGE_BYTES, ceiling_refusal
from worker.db import usage
from worker.db.batch_history import count_decided, read_history
from worker.db.batches import insert_cancellation, lock_batch
from worker.db.engine import write_transaction
from worker.db.multiparts import end_open_uploads
from worker.db.rejections import NOT_RECORDED, count_rejection
from worker.db.reservations import close_batch
from worker.db.tree.append import append_leaf


def cancel_batch(
    message: CancelMessage, tenant_id: str, signing_key: str | None, context: Context
) -> Cancelled | Outcome:
    """Cancel a batch of the tenant, and release what its missing chunks had reserved.

    Issued grants stay valid and charged. A batch that has not arrived yet will be refused when it
    does; its cancellation is refused if the tenant may record nothing more without a charge.
    Cancelling again releases nothing more. If the message asks for it,
    unfinished multipart uploads of the batch end now: the cleanup aborts them. Raises Transient.
    """
    batch_id, now = message.batch, context.now()
    with write_transaction(context.engine) as connection:
        lock_batch(connection, tenant_id, batch_id)  # against a first chunk that arrives meanwhile
        history = read_history(connection, tenant_id, batch_id, 0, now)
        is_free = history.batch is None and not history.is_cancelled
        if is_free and usage.is_beyond_ceiling(connection, tenant_id, now):
            digest = message_digest(message.model_dump())
            count_rejection(connection, NOT_RECORDED, tenant_id, digest, now)
            refusal = ceiling_refusal(usage.MAX_UNCHARGED_BYTES, now)
            return Outcome(batch=batch_id, chunk=0, status="refused", refusal=refusal)
        leaf = insert_cancellation(connection, message, tenant_id, signing_key, now)
        cancelled = _close(connection, message, tenant_id, now)
        if leaf is not None:
            usage.charge_uncharged(connection, tenant_id, MESSAGE_BYTES * is_free, now)
            append_leaf(connection, tenant_id, leaf)
    return cancelled


def _close(
    connection: Connection, message: CancelMessage, tenant_id: str, now: datetime
) -> Cancelled:
    """Release what a batch has reserved, and end its uploads if the message asks for it."""
    batch_id, aborting = message.batch, 0 if message.abort_uploads else None
    batch = read_history(connection, tenant_id, batch_id, 0, now).batch
    if batch is None:
        return Cancelled(batch=batch_id, issued=0, released=0, aborting=aborting)
    released = close_batch(connection, batch.batch_number, tenant_id)
    issued = count_decided(connection, batch.batch_number).issued
    if message.abort_uploads:
        aborting = end_open_uploads(connection, batch.batch_number, now)
    return Cancelled(batch=batch_id, issued=issued, released=released, aborting=aborting)
