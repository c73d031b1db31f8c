"""Handles requests about earlier batches: reopen and cancel."""

from typing import Any

from sqlalchemy import select

from models import Batch
from valetkey.wire.messages import BatchMessage, CancelMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import BatchState, Cancelled, Outcome
from worker import hooks
from worker.base.database_engine import autocommit_read, read_transaction, write_transaction
from worker.context import Context
from worker.issue.chunk_signing import read_recorded, reissue_chunk
from worker.ledger import quota_usage
from worker.ledger.batches import (
    count_decided,
    insert_cancellation,
    lock_batches,
    read_history,
)
from worker.ledger.multipart_rows import end_open_uploads
from worker.ledger.rejections import NOT_RECORDED, count_rejections
from worker.ledger.reservations import close_batch
from worker.ledger.tree_leaves import append_leaf
from worker.rules.authentication import AuthenticatedMessage, message_digest
from worker.rules.decisions import (
    MESSAGE_BYTES,
    GrantRow,
    Reply,
    ceiling_refusal,
    chunk_outcome,
    refused_item_result,
    refused_outcome,
)
from worker.rules.fingerprints import BATCH_UNKNOWN, BatchHistory
from worker.rules.policy_rules import refuse
from worker.rules.tenant_config import TenantConfig

_NO_CHUNK = -1  # a chunk number that no chunk has
_CHUNK_UNKNOWN = refuse(
    Code.BATCH_UNKNOWN, "chunk", "this chunk of the batch has not reached the service"
)


def reopen_batch(
    message: BatchMessage, sender: AuthenticatedMessage, _config: TenantConfig, context: Context
) -> Reply:
    """Return the state of a batch of the tenant, or the outcome of one of its chunks.

    A chunk is signed again from its rows, whichever of the tenant's keys signed its message. The
    result of a refused chunk includes its keys, which the caller may not know. Charges nothing.
    Raises Transient.
    """
    tenant = sender.tenant
    reply = _reopen(message, tenant.id, context)
    if reply.values["status"] not in {"issued", "refused"}:  # it is the state of the batch
        return reply
    with autocommit_read(context.engine) as connection:
        quotas = quota_usage.read_quota_states(connection, tenant, context.now())
    values = reply.values | {"quotas": [Reply.of(quota).values for quota in quotas]}
    return reply._replace(values=values)


def _reopen(message: BatchMessage, tenant_id: str, context: Context) -> Reply:
    if message.chunk is None:
        state = _batch_state(message, tenant_id, context)
        return (
            refused_outcome(message.batch, 0, BATCH_UNKNOWN) if state is None else Reply.of(state)
        )
    batch_number = _find_chunk(message, message.chunk, tenant_id, context)
    if isinstance(batch_number, Refusal):
        return refused_outcome(message.batch, message.chunk, batch_number)
    decision = reissue_chunk(read_recorded(batch_number, message.chunk, context), context)
    outcome = chunk_outcome(message.batch, message.chunk, decision)
    if decision.refusal is None:
        return outcome
    items = [_refused_item(row, decision.refusal) for row in decision.rows]
    return outcome._replace(values=outcome.values | {"items": items})


def _batch_state(message: BatchMessage, tenant_id: str, context: Context) -> BatchState | None:
    now = context.now()
    with read_transaction(context.engine) as connection:
        history = read_history(connection, tenant_id, message.batch, _NO_CHUNK, now)
        batch = history.batch
        if batch is None:
            return None
        # Counted after the batch was found: a chunk decided in between must not make an open batch
        # look closed.
        counts = count_decided(connection, batch.batch_number)
        contributed = hooks.batch_state(connection, batch.batch_number)
        of_batch = Batch.batch_number == batch.batch_number
        expires_in = connection.scalar(select(Batch.terms["expires_in"]).where(of_batch))
    is_complete = counts.chunks == batch.chunk_count
    is_issued = is_complete and batch.refusal is None
    return BatchState.model_validate(
        {
            "batch": message.batch,
            "kind": batch.kind,
            "bucket": batch.bucket,
            "total": batch.total,
            "chunk_size": batch.chunk_size,
            "decided": counts.chunks,
            "issued": counts.issued,
            "refused": counts.refused,
            "cancelled": history.is_cancelled,
            "expires_in": expires_in,
            "refusal": None if is_issued else batch.later_refusal,
        }
        | contributed
    )


def _find_chunk(
    message: BatchMessage, chunk_number: int, tenant_id: str, context: Context
) -> int | Refusal:
    """Return the number of a batch whose chunk is decided, or the refusal of that chunk."""
    history = find_history(message.batch, chunk_number, tenant_id, context)
    if history.batch is None:
        return BATCH_UNKNOWN
    if history.chunk is not None:
        return history.batch.batch_number
    limit = history.batch.chunk_count - 1
    if chunk_number > limit:
        return refuse(Code.CHUNK_INVALID, "chunk", "the batch has no such chunk", limit)
    return history.batch.later_refusal or _CHUNK_UNKNOWN


def find_history(
    batch_id: str, chunk_number: int, tenant_id: str, context: Context
) -> BatchHistory:
    """Read the committed state of a tenant's batch id and of one of its chunks."""
    with autocommit_read(context.engine) as connection:
        return read_history(connection, tenant_id, batch_id, chunk_number, context.now())


def _refused_item(row: GrantRow, chunk_refusal: Refusal) -> dict[str, Any]:
    """Return the refusal of the item alone, or else that of its whole chunk."""
    item_refusal = row.detail if row.code is not None else None
    return item_refusal or refused_item_result(chunk_refusal, row.object_key)


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
