"""Handles requests about earlier batches: reopen, cancel, and issue a grant afresh."""

from typing import Any

from sqlalchemy import select

from models import Batch
from valetkey.wire.grant_ids import split_grant_id
from valetkey.wire.messages import BatchMessage, CancelMessage, ChunkMessage, ReissueMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import BatchState, Cancelled, Outcome
from valetkey.wire.terms import AnyTerms
from worker.base.database_engine import autocommit_read, read_transaction, write_transaction
from worker.context import Context
from worker.core.annotations import BATCH_TEXTS
from worker.core.authentication import AuthenticatedMessage, message_digest
from worker.core.decisions import (
    MESSAGE_BYTES,
    ChunkRequest,
    GrantRow,
    RecordedChunk,
    ceiling_refusal,
    chunk_outcome,
    recorded_item,
    refused_item_result,
    refused_outcome,
)
from worker.core.fingerprints import BATCH_CONFLICT, BATCH_UNKNOWN, BatchHistory
from worker.core.policy_rules import refuse
from worker.core.tenant_config import TenantConfig
from worker.issue.chunk_signing import read_recorded, reissue_chunk
from worker.issue.issuer import issue_chunk
from worker.ledger import quota_usage
from worker.ledger.batches import (
    count_decided,
    insert_cancellation,
    lock_batches,
    read_history,
)
from worker.ledger.multipart_rows import end_open_uploads
from worker.ledger.outbox import read_manifest_state
from worker.ledger.rejections import NOT_RECORDED, count_rejections
from worker.ledger.reservations import close_batch
from worker.ledger.tree_leaves import append_leaf

_NO_CHUNK = -1  # a chunk number that no chunk has
_CHUNK_UNKNOWN = refuse(
    Code.BATCH_UNKNOWN, "chunk", "this chunk of the batch has not reached the service"
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
            return refused_outcome(message.batch, 0, BATCH_UNKNOWN)
        return state.model_dump(mode="json", exclude_none=True)
    batch_number = _find_chunk(message, message.chunk, tenant_id, context)
    if isinstance(batch_number, Refusal):
        return refused_outcome(message.batch, message.chunk, batch_number)
    decision = reissue_chunk(read_recorded(batch_number, message.chunk, context), context)
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
            "manifest": manifest,
        }
    )


def _find_chunk(
    message: BatchMessage, chunk_number: int, tenant_id: str, context: Context
) -> int | Refusal:
    """Return the number of a batch whose chunk is decided, or the refusal of that chunk."""
    history = _read_history(message.batch, chunk_number, tenant_id, context)
    if history.batch is None:
        return BATCH_UNKNOWN
    if history.chunk is not None:
        return history.batch.batch_number
    limit = history.batch.chunk_count - 1
    if chunk_number > limit:
        return refuse(Code.CHUNK_INVALID, "chunk", "the batch has no such chunk", limit)
    return history.batch.later_refusal or _CHUNK_UNKNOWN


def _read_history(
    batch_id: str, chunk_number: int, tenant_id: str, context: Context
) -> BatchHistory:
    with autocommit_read(context.engine) as connection:
        return read_history(connection, tenant_id, batch_id, chunk_number, context.now())


def _refused_item(row: GrantRow, chunk_refusal: Refusal) -> dict[str, Any]:
    """Return the refusal of the item alone, or else that of its whole chunk."""
    item_refusal = row.detail if row.code is not None else None
    return item_refusal or refused_item_result(chunk_refusal, row.object_key)


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


_REISSUED_KINDS = ("download", "upload", "put")
# Not multipart: the parts that were issued belong to the upload of the earlier grant.
_GRANT_UNKNOWN = refuse(
    Code.GRANT_UNKNOWN,
    "of",
    "the tenant has no grant of this id, or its rows were removed after their time",
)
_GRANT_CANCELLED = refuse(
    Code.BATCH_CLOSED, "of", "the batch of the grant was cancelled: request a new one instead"
)
_GRANT_REVOKED = refuse(Code.REVOKED, "of", "the grant was revoked: request a new one instead")


def reissue_grant(
    message: ReissueMessage, sender: AuthenticatedMessage, config: TenantConfig, context: Context
) -> dict[str, Any]:
    """Issue the object of an earlier grant again, as a request of today that names its terms.

    It is admitted, charged and recorded as any request; the batch names the earlier grant. The same
    message again gets the same grant, even if the earlier one may no longer be issued again.
    Raises Transient.
    """
    tenant = sender.tenant
    request = _find_request(message, tenant.id, context)
    if isinstance(request, ChunkMessage):
        chunk = ChunkRequest(request, tenant, sender.signing_key, reissue_of=message.of)
        return issue_chunk(chunk, config, context)
    query = select(Batch.batch_number, Batch.reissue_of).where(
        Batch.tenant == tenant.id, Batch.batch_id == message.batch
    )
    with autocommit_read(context.engine) as connection:
        committed = connection.execute(query).first()
    if committed is None:
        return refused_outcome(message.batch, 0, request)
    if committed.reissue_of != message.of:
        return refused_outcome(message.batch, 0, BATCH_CONFLICT)
    decision = reissue_chunk(read_recorded(committed.batch_number, 0, context), context)
    return chunk_outcome(message.batch, 0, decision)


def _find_request(
    message: ReissueMessage, tenant_id: str, context: Context
) -> ChunkMessage | Refusal:
    """Return the request that the message stands for, or its refusal."""
    batch_id, item = split_grant_id(message.of)
    history = _read_history(batch_id, 0, tenant_id, context)
    batch = history.batch
    if batch is None or item >= batch.total:
        return _GRANT_UNKNOWN
    if batch.kind not in _REISSUED_KINDS:
        text = f"a grant of the kind {batch.kind} cannot be issued again"
        return _not_allowed(text, list(_REISSUED_KINDS))
    if history.is_cancelled:
        return _GRANT_CANCELLED
    chunk = item // batch.chunk_size
    if _read_history(batch_id, chunk, tenant_id, context).chunk is None:
        return _GRANT_UNKNOWN
    return _new_request(message, read_recorded(batch.batch_number, chunk, context), item)


def _new_request(
    message: ReissueMessage, recorded: RecordedChunk, item_number: int
) -> ChunkMessage | Refusal:
    row = next((row for row in recorded.rows if row.item_number == item_number), None)
    if row is None:
        return _GRANT_UNKNOWN
    if row.code == Code.REVOKED:
        return _GRANT_REVOKED
    if row.code is not None:
        return _not_allowed(f"it was refused as {row.code}: request it again instead")
    texts = recorded.texts(item_number)
    return ChunkMessage(
        tenant=message.tenant,
        batch=message.batch,
        requested_by=message.requested_by,
        **{name: getattr(message, name) or texts[name] for name in BATCH_TEXTS},
        grant=_new_terms(recorded.terms, message.expires_in),
        total=1,
        items=[recorded_item(row).model_copy(update={"ref": texts["ref"]})],
    )


def _new_terms(terms: AnyTerms, expires_in: int | None) -> AnyTerms:
    if expires_in is None:
        return terms
    shortest = terms.min_expires_in and min(terms.min_expires_in, expires_in)
    return terms.model_copy(update={"expires_in": expires_in, "min_expires_in": shortest})


def _not_allowed(text: str, limit: list[str] | None = None) -> Refusal:
    return refuse(Code.REISSUE_NOT_ALLOWED, "of", text, limit)
