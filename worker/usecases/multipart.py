"""The multipart uploads that are recorded already, and their parts."""

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import Connection, select

from models import Batch, Chunk
from valetkey.wire.grant_ids import split_grant_id
from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Parts
from worker.context import Context
from worker.core.kinds.registry import issued_cost, reserved_cost
from worker.core.policy.decisions import ChunkRequest
from worker.core.policy.uncharged import ceiling_refusal, pays_for_records
from worker.core.quotas.admission import admit_cost
from worker.core.revocation.targets import RevokedItem, covers
from worker.core.signing.multipart_plan import NO_UPLOAD, StartedUpload
from worker.core.tenants.storage_names import storage_name
from worker.db import usage
from worker.db.batch_history import read_history
from worker.db.engine import read_transaction
from worker.db.multiparts import UploadRecord, find_upload_by_grant
from worker.db.revocation.recorded import revocations_since

_REVOKED = Refusal(
    code=Code.REVOKED, field="grant.of", message="the grant was revoked: request another one"
)


def has_final_result(request: ChunkRequest, context: Context) -> bool:
    """Return true if a multipart request is already decided: no upload has to be started."""
    message, now = request.message, context.now()
    with read_transaction(context.engine) as connection:
        history = read_history(connection, request.tenant.id, message.batch, message.chunk, now)
    return history.is_final_for(message)


def quota_refusal(
    request: ChunkRequest, items: Collection[Item], context: Context
) -> Refusal | None:
    """Return the refusal of a batch that exceeds a quota, before its uploads are started.

    items are those of this chunk that policy allows. The commit decides; without this, a
    tenant beyond its quota could have the workers start and abort a thousand uploads per message.
    """
    (message, tenant, *_), now = request, context.now()
    later = message.total - len(message.items)
    cost = reserved_cost(message.grant, later).plus(issued_cost(message.grant, items))
    with read_transaction(context.engine) as connection:
        is_limited = not pays_for_records(len(items), len(message.items))
        if is_limited and usage.is_beyond_ceiling(connection, tenant.id, now):
            return ceiling_refusal(usage.MAX_UNCHARGED_BYTES, now)
        history = read_history(connection, tenant.id, message.batch, message.chunk, now)
        if history.batch is not None:
            return None  # its first chunk has reserved the cost of all
        return admit_cost(tenant, usage.read_usage(connection, tenant.id, now), cost, now).refusal


def find_continued_upload(
    tenant_id: str, terms: Parts, context: Context, now: datetime
) -> UploadRecord | Refusal:
    """Return the tenant's open upload that the requested parts belong to, or a refusal."""
    record = _find_upload(tenant_id, terms, context)
    if isinstance(record, Refusal):
        return record
    if record is None or not record.is_open or record.expires_at <= now:
        text = "the tenant has no open multipart upload under this grant id"
        return Refusal(code=Code.UPLOAD_UNKNOWN, field="grant.of", message=text)
    if record.bucket != terms.bucket:
        text = "the upload is in another bucket profile"
        return Refusal(code=Code.UPLOAD_UNKNOWN, field="grant.bucket", message=text)
    return record


def find_parts_upload(tenant_id: str, terms: Parts, context: Context) -> StartedUpload | Refusal:
    """Return the upload that recorded parts belong to, open or not; NO_UPLOAD if there is none.

    Returns a refusal if the grant of the upload was revoked: its parts are grants of their own.
    """
    record = _find_upload(tenant_id, terms, context)
    if record is None or isinstance(record, Refusal):
        return record or NO_UPLOAD
    return record.upload


def _find_upload(tenant_id: str, terms: Parts, context: Context) -> UploadRecord | Refusal | None:
    with read_transaction(context.engine) as connection:
        record = find_upload_by_grant(connection, tenant_id, terms.of)
        if record is not None and _is_revoked(connection, record, terms.of, context):
            return _REVOKED
    return record


def _is_revoked(connection: Connection, record: UploadRecord, of: str, context: Context) -> bool:
    """Return whether the grant of an upload was revoked; of is the grant's id."""
    batch_id, item_number = split_grant_id(of)
    query = select(Chunk.issued_at).join(Batch, Batch.batch_number == Chunk.batch_number)
    is_chunk = Chunk.chunk_number == item_number // Batch.chunk_size
    is_batch = Chunk.batch_number == record.batch_number
    issued_at = connection.scalars(query.where(is_batch, is_chunk)).one()
    bucket = context.config.current().buckets.get(record.bucket)
    storage = None if bucket is None else storage_name(bucket)
    item = RevokedItem(batch_id, item_number, record.bucket, storage, record.object_key)
    revocations = revocations_since(connection, record.tenant_id, issued_at)
    return any(covers(each, item) for each in revocations)
