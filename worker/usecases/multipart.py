"""Multipart uploads: started for a grant, continued by parts, aborted when the grant expires."""

from datetime import datetime

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Multipart, Parts
from worker.aws import objects
from worker.context import Context
from worker.core.policy.admission import Admission
from worker.core.policy.decide import StartUpload
from worker.core.policy.decisions import ChunkDecision, ChunkRequest
from worker.core.signing.multipart_plan import NO_UPLOAD, StartedUpload, plan_parts
from worker.core.signing.storage_headers import create_multipart_params
from worker.db.batch_history import read_history
from worker.db.engine import read_transaction
from worker.db.multiparts import UploadRecord, find_upload_by_grant


def has_final_result(request: ChunkRequest, context: Context) -> bool:
    """Return true if a multipart request is already decided: no upload has to be started."""
    message, now = request.message, context.now()
    with read_transaction(context.engine) as connection:
        history = read_history(connection, request.tenant.id, message.batch, message.chunk, now)
    return history.is_final_for(message)


def upload_starter(
    request: ChunkRequest,
    admission: Admission,
    terms: Multipart,
    context: Context,
    now: datetime,
) -> StartUpload:
    """Return the function that starts the upload of an item.

    The function raises Transient if storage does not start the upload.
    """
    bucket = admission.bucket
    client = context.s3.client(bucket, request.tenant.name, admission.policy.prefixes, now)

    def start(grant_id: str, item: Item) -> StartedUpload:
        plan = plan_parts(item.size or 0, terms.part_size)
        if plan is None:
            return NO_UPLOAD
        params = create_multipart_params(terms, grant_id)
        return StartedUpload(objects.start_upload(client, bucket.bucket, item.key, params), plan)

    return start


def abort_uncommitted(
    request: ChunkRequest,
    admission: Admission,
    decision: ChunkDecision,
    context: Context,
    now: datetime,
) -> None:
    """Abort the uploads that were started for a decision that was not committed.

    If storage is unreachable, the bucket's lifecycle rule for incomplete uploads ends them.
    """
    bucket = admission.bucket
    client = context.s3.client(bucket, request.tenant.name, admission.policy.prefixes, now)
    for row in decision.rows:
        upload = decision.uploads.get(row.item_number)
        if upload is not None:
            objects.abort_upload(client, bucket.bucket, row.object_key, upload.upload_id)


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
