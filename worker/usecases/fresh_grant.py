"""Issues a fresh grant of the same object, under the terms of an earlier grant of the tenant."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from models import Batch
from valetkey.wire.grant_ids import split_grant_id
from valetkey.wire.messages import ChunkMessage, ReissueMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Outcome
from valetkey.wire.terms import AnyTerms
from worker.context import Context
from worker.core.policy.decisions import ChunkRequest, RecordedChunk, chunk_outcome, recorded_item
from worker.core.policy.history import BATCH_CONFLICT
from worker.core.revocation.refusals import refuse_revoked
from worker.core.tenants.config import Tenant, TenantConfig
from worker.db.batch_history import read_history, read_recorded_chunk
from worker.db.engine import autocommit_read, read_transaction
from worker.db.revocation.recorded import revocations_since
from worker.usecases.issue import issue_chunk
from worker.usecases.reissue import reissue_chunk_by_number

_KINDS = ("download", "upload", "put")  # of multipart uploads, the parts depend on one upload
_UNKNOWN = Refusal(
    code=Code.GRANT_UNKNOWN,
    field="of",
    message="the tenant has no grant of this id, or its rows were removed after their time",
)
_CANCELLED = Refusal(
    code=Code.BATCH_CLOSED,
    field="of",
    message="the batch of the grant was cancelled: request a new one instead",
)
_REVOKED = Refusal(
    code=Code.REVOKED, field="of", message="the grant was revoked: request a new one instead"
)


class _NewBatch(NamedTuple):
    """The batch that is committed under the id of the message, and of, the grant it replaces."""

    batch_number: int
    of: str | None


def reissue_grant(
    message: ReissueMessage,
    tenant: Tenant,
    signing_key: str | None,
    config: TenantConfig,
    context: Context,
) -> dict[str, Any]:
    """Issue the object of an earlier grant again, as a request of today that names its terms.

    It is admitted, charged and recorded as any request; the batch names the earlier grant. The same
    message again gets the same grant, even if the earlier one may no longer be issued again.
    Raises Transient.
    """
    now = context.now()
    with read_transaction(context.engine) as connection:
        request = _find_request(connection, message, tenant.id, config, now)
    if isinstance(request, ChunkMessage):
        chunk = ChunkRequest(request, tenant, signing_key, reissue_of=message.of)
        return issue_chunk(chunk, config, context)
    committed = _find_committed(message, tenant.id, context)
    if committed is None:
        return _refuse(message, request)
    if committed.of != message.of:
        return _refuse(message, BATCH_CONFLICT)
    decision = reissue_chunk_by_number(committed.batch_number, 0, context)
    return chunk_outcome(message.batch, 0, decision)


def _find_request(
    connection: Connection,
    message: ReissueMessage,
    tenant_id: str,
    config: TenantConfig,
    now: datetime,
) -> ChunkMessage | Refusal:
    """Return the request that the message stands for, or its refusal."""
    batch_id, item = split_grant_id(message.of)
    history = read_history(connection, tenant_id, batch_id, 0, now)
    batch = history.batch
    if batch is None or item >= batch.total:
        return _UNKNOWN
    if batch.kind not in _KINDS:
        text = f"a grant of the kind {batch.kind} cannot be issued again"
        return _not_allowed(text, list(_KINDS))
    if history.is_cancelled:
        return _CANCELLED
    chunk = item // batch.chunk_size
    if read_history(connection, tenant_id, batch_id, chunk, now).chunk is None:
        return _UNKNOWN
    recorded = read_recorded_chunk(connection, batch.batch_number, chunk)
    revocations = revocations_since(connection, tenant_id, recorded.validity.issued_at)
    return _request(message, refuse_revoked(recorded, revocations, config), item)


def _request(
    message: ReissueMessage, recorded: RecordedChunk, item_number: int
) -> ChunkMessage | Refusal:
    row = next((row for row in recorded.rows if row.item_number == item_number), None)
    if row is None:
        return _UNKNOWN
    if row.code == Code.REVOKED:
        return _REVOKED
    if row.code is not None:
        return _not_allowed(f"it was refused as {row.code}: request it again instead")
    return ChunkMessage(
        tenant=message.tenant,
        batch=message.batch,
        requested_by=message.requested_by,
        reason=message.reason,
        recipient=message.recipient,
        grant=_terms(recorded.terms, message.expires_in),
        total=1,
        items=[recorded_item(row)],
    )


def _terms(terms: AnyTerms, expires_in: int | None) -> AnyTerms:
    if expires_in is None:
        return terms
    shortest = terms.min_expires_in and min(terms.min_expires_in, expires_in)
    return terms.model_copy(update={"expires_in": expires_in, "min_expires_in": shortest})


def _not_allowed(text: str, limit: list[str] | None = None) -> Refusal:
    return Refusal(code=Code.REISSUE_NOT_ALLOWED, field="of", message=text, limit=limit)


def _find_committed(message: ReissueMessage, tenant_id: str, context: Context) -> _NewBatch | None:
    query = select(Batch.batch_number, Batch.reissue_of).where(
        Batch.tenant == tenant_id, Batch.batch_id == message.batch
    )
    with autocommit_read(context.engine) as connection:
        row = connection.execute(query).first()
    return None if row is None else _NewBatch(*row)


def _refuse(message: ReissueMessage, refusal: Refusal) -> dict[str, Any]:
    outcome = Outcome(batch=message.batch, chunk=0, status="refused", refusal=refusal)
    return outcome.model_dump(mode="json", exclude_none=True)
