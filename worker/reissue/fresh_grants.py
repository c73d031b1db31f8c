"""Issues the object of an earlier grant again, as a request of its own."""

from sqlalchemy import select

from models import Batch
from valetkey.wire.grant_ids import split_grant_id
from valetkey.wire.messages import ChunkMessage, ReissueMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms
from worker.base.database_engine import autocommit_read
from worker.context import Context
from worker.issue.chunk_signing import read_recorded, reissue_chunk
from worker.issue.earlier_batches import find_history
from worker.issue.issuer import issue_chunk
from worker.rules.annotations import BATCH_TEXTS
from worker.rules.authentication import AuthenticatedMessage
from worker.rules.decisions import (
    ChunkRequest,
    RecordedChunk,
    Reply,
    chunk_outcome,
    recorded_item,
    refused_outcome,
)
from worker.rules.fingerprints import BATCH_CONFLICT
from worker.rules.policy_rules import refuse
from worker.rules.tenant_config import TenantConfig

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
) -> Reply:
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
    history = find_history(batch_id, 0, tenant_id, context)
    batch = history.batch
    if batch is None or item >= batch.total:
        return _GRANT_UNKNOWN
    if batch.kind not in _REISSUED_KINDS:
        text = f"a grant of the kind {batch.kind} cannot be issued again"
        return _not_allowed(text, list(_REISSUED_KINDS))
    if history.is_cancelled:
        return _GRANT_CANCELLED
    chunk = item // batch.chunk_size
    if find_history(batch_id, chunk, tenant_id, context).chunk is None:
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
