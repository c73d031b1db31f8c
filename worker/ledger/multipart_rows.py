"""Rows of multipart uploads that the service starts, within the caller's transaction."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    bindparam,
    delete,
    insert,
    select,
    tuple_,
    update,
)

from models import Batch, MultipartUpload, UploadStart
from valetkey.signing.signing_context import MultipartPlan, StartedUpload
from valetkey.wire.grant_ids import split_grant_id
from worker.base.database_engine import DriverStatement
from worker.errors import Transient
from worker.rules.decisions import ChunkDecision, ChunkRequest, UploadAttempt
from worker.rules.policy_rules import RequestContext


class UploadRecord(NamedTuple):
    """A multipart upload that was started for a grant, and is aborted when the grant expires."""

    batch_number: int
    item_number: int
    tenant_id: str
    bucket: str
    object_key: str
    upload: StartedUpload
    expires_at: datetime
    is_open: bool
    is_aborted: bool = False


def insert_uploads(
    connection: Connection,
    batch_number: int,
    request: ChunkRequest,
    decision: ChunkDecision,
    attempt: UploadAttempt,
) -> None:
    """Insert the uploads of an attempt, together with the chunk's grants, instead of its starts.

    The starts of uncertain items stay for the cleanup. Raises Transient if the attempt was
    abandoned meanwhile: then its uploads must not be recorded.
    """
    uncertain = dict.fromkeys(attempt.uncertain)
    starting = abandon_attempt(connection, attempt.id, uncertain, attempt.cleanup_at)
    if not starting.issuperset(attempt.uploads):
        raise Transient("the uploads of this message took too long to start", "storage")
    common = {
        "batch_number": batch_number,
        "tenant": request.tenant.id,
        "bucket": request.message.grant.bucket,
        "expires_at": decision.validity.expires_at,
        "state": "open",
    }
    rows = [
        common
        | {"item_number": row.item_number, "object_key": row.object_key}
        | {"upload_id": upload.upload_id, **upload.plan._asdict()}
        for row in decision.rows
        if (upload := attempt.uploads.get(row.item_number)) is not None
    ]
    if rows:
        connection.execute(insert(MultipartUpload), rows)


def find_upload_by_grant(
    connection: Connection, tenant_id: str, grant_id: str
) -> UploadRecord | None:
    """Find the upload of one of a tenant's grants by the grant's id."""
    try:
        batch_id, item_number = split_grant_id(grant_id)
    except ValueError:
        return None
    query = (
        select(MultipartUpload)
        .join(Batch, Batch.batch_number == MultipartUpload.batch_number)
        .where(Batch.tenant == tenant_id, Batch.batch_id == batch_id)
        .where(MultipartUpload.item_number == item_number)
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else read_upload(row)


def take_paid_parts(connection: Connection, tenant_id: str, grant_id: str, number: int) -> int:
    """Return number if the charge of an upload paid for that many more grants of parts, else 0.

    It paid for as many as the upload has parts.
    """
    record = find_upload_by_grant(connection, tenant_id, grant_id)
    if record is None:
        return 0
    granted = MultipartUpload.granted_parts + number
    is_paid = granted <= record.upload.plan.part_count
    taken = update(MultipartUpload).where(*is_upload(record), is_paid)
    return number * connection.execute(taken.values(granted_parts=granted)).rowcount


def is_upload(record: UploadRecord) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for the row of an upload."""
    return (
        MultipartUpload.batch_number == record.batch_number,
        MultipartUpload.item_number == record.item_number,
    )


_READ_UPLOADS = DriverStatement(
    select(*MultipartUpload.__table__.c).where(
        MultipartUpload.batch_number == bindparam("batch"),
        MultipartUpload.item_number >= bindparam("first"),
        MultipartUpload.item_number < bindparam("stop"),
    )
)


def uploads_of_chunk(
    connection: Connection, batch_number: int, items: range
) -> dict[int, StartedUpload]:
    """Return the uploads that were started for a chunk's items, open or not, by item number."""
    params = {"batch": batch_number, "first": items.start, "stop": items.stop}
    rows = _READ_UPLOADS.run(connection, params)
    return {row.item_number: read_upload(row).upload for row in rows}


def read_upload(row: Any) -> UploadRecord:
    """Return what a row of the table multipart_uploads says."""
    return UploadRecord(
        batch_number=row.batch_number,
        item_number=row.item_number,
        tenant_id=row.tenant,
        bucket=row.bucket,
        object_key=row.object_key,
        upload=StartedUpload(row.upload_id, MultipartPlan(row.size, row.part_size)),
        expires_at=row.expires_at,
        is_open=row.state == "open",
        is_aborted=row.state == "aborted",
    )


STARTING, ABANDONED = "starting", "abandoned"
"""The states of an upload that is started: with its attempt, or left to the cleanup."""

START_KEY = tuple_(UploadStart.attempt, UploadStart.item_number)

StartKey = tuple[str, int]
"""The id of an attempt, and the number of an item."""


def insert_starts(
    connection: Connection,
    attempt: str,
    request: RequestContext,
    object_keys: Mapping[int, str],
    cleanup_at: datetime,
) -> None:
    """Insert the uploads that an attempt will start; object_keys are by item number."""
    common = {
        "attempt": attempt,
        "tenant": request.tenant.id,
        "batch_id": request.message.batch,
        "bucket": request.message.grant.bucket,
        "state": STARTING,
        "started_at": request.now,
        "cleanup_at": cleanup_at,
    }
    rows = [
        common | {"item_number": number, "object_key": object_key}
        for number, object_key in object_keys.items()
    ]
    connection.execute(insert(UploadStart), rows)


def abandon_attempt(
    connection: Connection, attempt: str, upload_ids: Mapping[int, str | None], cleanup_at: datetime
) -> set[int]:
    """Leave the uploads with these ids, by item number, to the cleanup; remove the other rows.

    An id is None if storage may have created an upload whose id is unknown. Returns the items of
    the attempt that were neither recorded nor abandoned before.
    """
    is_starting = UploadStart.attempt == attempt, UploadStart.state == STARTING
    removed = delete(UploadStart).where(*is_starting)
    if upload_ids:
        removed = removed.where(UploadStart.item_number.not_in(upload_ids))
    items = set(connection.scalars(removed.returning(UploadStart.item_number)))
    for item_number, upload_id in upload_ids.items():
        values = {"upload_id": upload_id, "state": ABANDONED, "cleanup_at": cleanup_at}
        left = update(UploadStart).where(*is_starting, UploadStart.item_number == item_number)
        items |= set(connection.scalars(left.values(values).returning(UploadStart.item_number)))
    return items


def delete_starts(connection: Connection, keys: Collection[StartKey]) -> None:
    """Delete uploads that are aborted, or given up."""
    connection.execute(delete(UploadStart).where(START_KEY.in_(keys)))
