"""Returns the state of a batch by its id alone, or the outcome of one of its chunks again."""

from typing import Any

from valetkey.wire.messages import BatchMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import BatchState, Outcome
from worker.context import Context
from worker.core.policy.decisions import GrantRow, chunk_outcome, refused_item_result
from worker.core.policy.history import BATCH_UNKNOWN, RecordedBatch
from worker.db.batch_history import count_decided, read_history
from worker.db.engine import autocommit_read, read_transaction
from worker.db.manifests import read_manifest_state
from worker.usecases.reissue import reissue_chunk_by_number

_NO_CHUNK = -1  # a chunk number that no chunk has
_CHUNK_UNKNOWN = Refusal(
    code=Code.BATCH_UNKNOWN,
    field="chunk",
    message="this chunk of the batch has not reached the service",
)


def reopen_batch(message: BatchMessage, tenant_id: str, context: Context) -> dict[str, Any]:
    """Return the state of a batch of the tenant, or the outcome of one of its chunks.

    A chunk is signed again from its rows, whichever of the tenant's keys signed its message. The
    result of a refused chunk includes its keys, which the caller may not know. Charges nothing.
    Raises Transient.
    """
    if message.chunk is None:
        state = _batch_state(message, tenant_id, context)
        if state is None:
            return _refuse_message(message, BATCH_UNKNOWN)
        return state.model_dump(mode="json", exclude_none=True)
    batch_number = _find_chunk(message, message.chunk, tenant_id, context)
    if isinstance(batch_number, Refusal):
        return _refuse_message(message, batch_number)
    decision = reissue_chunk_by_number(batch_number, message.chunk, context)
    outcome = chunk_outcome(message.batch, message.chunk, decision)
    if decision.refusal is None:
        return outcome
    return outcome | {"items": [_refused_item(row, decision.refusal) for row in decision.rows]}


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
        manifest = read_manifest_state(connection, batch.batch_number)
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
            "refusal": None if is_issued else batch.later_refusal,
            "manifest": manifest,
        }
    )


def _find_chunk(
    message: BatchMessage, chunk_number: int, tenant_id: str, context: Context
) -> int | Refusal:
    """Return the number of a batch whose chunk is decided, or the refusal of that chunk."""
    now = context.now()
    with autocommit_read(context.engine) as connection:
        history = read_history(connection, tenant_id, message.batch, chunk_number, now)
    if history.batch is None:
        return BATCH_UNKNOWN
    if history.chunk is not None:
        return history.batch.batch_number
    return _missing_chunk_refusal(history.batch, chunk_number)


def _missing_chunk_refusal(batch: RecordedBatch, chunk_number: int) -> Refusal:
    if chunk_number >= batch.chunk_count:
        text = "the batch has no such chunk"
        limit = batch.chunk_count - 1
        return Refusal(code=Code.CHUNK_INVALID, field="chunk", message=text, limit=limit)
    return batch.later_refusal or _CHUNK_UNKNOWN


def _refuse_message(message: BatchMessage, refusal: Refusal) -> dict[str, Any]:
    chunk = message.chunk or 0
    outcome = Outcome(batch=message.batch, chunk=chunk, status="refused", refusal=refusal)
    return outcome.model_dump(mode="json", exclude_none=True)


def _refused_item(row: GrantRow, chunk_refusal: Refusal) -> dict[str, Any]:
    """Return the refusal of the item alone, or else that of its whole chunk."""
    item_refusal = row.detail if row.code is not None else None
    return item_refusal or refused_item_result(chunk_refusal, row.object_key)
