"""Checks in storage that an aborted upload stored nothing, before its bytes are given back.

The upload's completion is a presigned request, which can still be sent, or be under way. So three
things must hold: storage had the upload as unfinished before the service aborted it, has it no
more, and some minutes later has no object that this grant stored. An upload that was completed or
aborted by its client is unknown to storage in the same way: its bytes stay charged.
"""

from datetime import datetime, timedelta
from typing import Any

import structlog

from valetkey.wire.grant_ids import grant_id
from worker.aws import objects
from worker.context import Context
from worker.core.kinds.role_session import cleanup_session
from worker.core.tenants.config import TenantAccess
from worker.db.engine import read_transaction
from worker.db.multiparts import UploadRecord, batch_id_of
from worker.errors import Malformed, Transient

CHECK_DELAY = timedelta(minutes=5)
"""The time between an abort and the check. Storage may take minutes to complete an upload."""

log = structlog.get_logger()


def is_unfinished(
    record: UploadRecord, access: TenantAccess, context: Context, now: datetime
) -> bool:
    """Return true if storage has an upload that is neither completed nor aborted.

    Returns false if storage does not list uploads: the abort does not depend on it.
    """
    try:
        return _is_listed(record, access, context, now)
    except (Malformed, Transient) as error:
        log.warning("upload_not_listed", bucket=record.bucket, problem=str(error))
        return False


def is_nothing_stored(record: UploadRecord, context: Context, now: datetime) -> bool:
    """Return true if storage has neither an aborted upload nor an object that its grant stored.

    An upload that is there again is aborted again: parts that were under way during the abort can
    bring it back (AWS: API_AbortMultipartUpload.html). Raises Transient and Malformed.
    """
    access = context.config.current().find_access(record.tenant_id, record.bucket)
    if access is None:
        return False
    bucket, tenant, policy = access
    client: Any = context.s3.client(bucket, tenant.name, policy.prefixes, now)
    if _is_listed(record, access, context, now):
        objects.abort_upload(client, bucket.bucket, record.object_key, record.upload.upload_id)
        raise Transient("storage still has an upload that was aborted")
    with read_transaction(context.engine) as connection:
        batch_id = batch_id_of(connection, record.batch_number)
    stored_by = objects.find_grant_id(client, bucket.bucket, record.object_key)
    return stored_by != grant_id(batch_id, record.item_number)


def _is_listed(record: UploadRecord, access: TenantAccess, context: Context, now: datetime) -> bool:
    bucket, tenant, policy = access
    client: Any = context.s3.limited_client(
        bucket, tenant.name, policy.prefixes, now, cleanup_session
    )
    listed = objects.list_uploads(client, bucket.bucket, record.object_key)
    return any(upload.upload_id == record.upload.upload_id for upload in listed)
