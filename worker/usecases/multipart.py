"""The multipart uploads that are recorded already, and their parts."""

from collections.abc import Collection
from datetime import datetime

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Parts
from worker.context import Context
from worker.core.kinds.registry import issued_cost, reserved_cost
from worker.core.policy.decisions import ChunkRequest
from worker.core.policy.uncharged import ceiling_refusal
from worker.core.quotas.admission import admit_cost
from worker.core.signing.multipart_plan import NO_UPLOAD, StartedUpload
from worker.db import usage
from worker.db.batch_history import read_history
from worker.db.engine import read_transaction
from worker.db.multiparts import UploadRecord, find_upload_by_grant


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
        is_limited = 2 * len(items) < len(message.items)  # as uncharged_bytes says
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
    with read_transaction(context.engine) as connection:
        record = find_upload_by_grant(connection, tenant_id, terms.of)
    if record is None or not record.is_open or record.expires_at <= now:
        text = "the tenant has no open multipart upload under this grant id"
        return Refusal(code=Code.UPLOAD_UNKNOWN, field="grant.of", message=text)
    if record.bucket != terms.bucket:
        text = "the upload is in another bucket profile"
        return Refusal(code=Code.UPLOAD_UNKNOWN, field="grant.bucket", message=text)
    return record


def find_parts_upload(tenant_id: str, terms: Parts, context: Context) -> StartedUpload:
    """Return the upload that recorded parts belong to, open or not; NO_UPLOAD if there is none."""
    with read_transaction(context.engine) as connection:
        record = find_upload_by_grant(connection, tenant_id, terms.of)
    return NO_UPLOAD if record is None else record.upload
