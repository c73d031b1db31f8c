"""Handles requests to reopen an earlier batch."""

from typing import Any

from sqlalchemy import select

from models import Batch
from valetkey.wire.messages import BatchMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import BatchState
from worker import hooks
from worker.base.database_engine import autocommit_read, read_transaction
from worker.context import Context
from worker.issue.chunk_signing import read_recorded, reissue_chunk
from worker.ledger import quota_usage
from worker.ledger.batches import count_decided, read_history
from worker.rules.authentication import AuthenticatedMessage
from worker.rules.decisions import (
    GrantRow,
    Reply,
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
