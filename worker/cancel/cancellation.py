"""Cancels a batch: what is not decided yet will be refused, and its reservations are released."""

from datetime import datetime

from sqlalchemy import Connection, func, select, update

from models import Cancellation, MultipartUpload
from valetkey.wire.messages import CancelMessage
from valetkey.wire.replies import Cancelled, Outcome
from worker.base.database_engine import write_transaction
from worker.base.inserts import insert_once
from worker.context import Context
from worker.ledger import quota_usage
from worker.ledger.batches import count_decided, lock_batches, read_history
from worker.ledger.merkle import encode_record, entry_hash
from worker.ledger.rejections import NOT_RECORDED, count_rejections
from worker.ledger.reservations import close_batch
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.rules.annotations import salted
from worker.rules.authentication import AuthenticatedMessage, message_digest
from worker.rules.decisions import MESSAGE_BYTES, Reply, ceiling_refusal
from worker.rules.tenant_config import TenantConfig


def respond_to_cancel(
    message: CancelMessage, sender: AuthenticatedMessage, _config: TenantConfig, context: Context
) -> Reply:
    """Cancel a batch for its tenant. Raises Transient."""
    return Reply.of(cancel_batch(message, sender.tenant.id, sender.signing_key, context))


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
    issued, released, aborting = 0, 0, 0 if message.abort_uploads else None
    with write_transaction(context.engine) as connection:
        # Against a first chunk that arrives meanwhile.
        lock_batches(connection, tenant_id, batch_id)
        batch, _, is_cancelled = read_history(connection, tenant_id, batch_id, 0, now)
        is_free = batch is None and not is_cancelled
        if is_free and quota_usage.is_beyond_ceiling(connection, tenant_id, now):
            digest = message_digest(message.model_dump())
            count_rejections(connection, tenant_id, {NOT_RECORDED: [digest]}, now)
            refusal = ceiling_refusal(quota_usage.MAX_UNCHARGED_BYTES, now)
            return Outcome(batch=batch_id, chunk=0, status="refused", refusal=refusal)
        leaf = insert_cancellation(connection, message, tenant_id, signing_key, now)
        if batch is not None:
            released = close_batch(connection, batch.batch_number, tenant_id, now)
            issued = count_decided(connection, batch.batch_number).issued
            if message.abort_uploads:
                aborting = end_open_uploads(connection, batch.batch_number, now)
        if leaf is not None:
            quota_usage.charge_uncharged(connection, tenant_id, MESSAGE_BYTES * is_free, now)
            append_leaf(connection, tenant_id, leaf)
    return Cancelled(batch=batch_id, issued=issued, released=released, aborting=aborting)


def insert_cancellation(
    connection: Connection,
    message: CancelMessage,
    tenant_id: str,
    signing_key: str | None,
    now: datetime,
) -> NewLeaf | None:
    """Insert the cancellation of a batch, unless it is cancelled already.

    Returns the leaf to append at the end of the transaction, if it was inserted.
    """
    values = {
        "tenant": tenant_id,
        "batch_id": message.batch,
        "signing_key": signing_key,
        **salted({"requested_by": message.requested_by, "reason": message.reason}),
        "cancelled_at": now,
    }
    if not insert_once(connection, Cancellation, values):
        return None
    record = encode_record("cancellation", values)
    return NewLeaf("cancellation", entry_hash([record]), reference=message.batch)


def end_open_uploads(connection: Connection, batch_number: int, now: datetime) -> int:
    """Let the open uploads of a batch end now, and return their number.

    No further part is granted, and the cleanup aborts them.
    """
    is_open = MultipartUpload.batch_number == batch_number, MultipartUpload.state == "open"
    query = select(func.count()).select_from(MultipartUpload).where(*is_open)
    connection.execute(
        update(MultipartUpload)
        .where(*is_open, MultipartUpload.expires_at > now)
        .values(expires_at=now)
    )
    return connection.execute(query).scalar_one()
