"""Rows of the multipart uploads that the service started, within the caller's transaction."""

import re
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, func, insert, select, update

from models import Batch, MultipartUpload
from worker.core.policy.decisions import ChunkDecision, ChunkRequest
from worker.core.signing.multipart_plan import MultipartPlan, StartedUpload

_ITEM_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII).fullmatch  # as grant ids write it


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
    connection: Connection, batch_number: int, request: ChunkRequest, decision: ChunkDecision
) -> None:
    """Insert the uploads that were started for a chunk, together with its grants."""
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
        if (upload := decision.uploads.get(row.item_number)) is not None
    ]
    if rows:
        connection.execute(insert(MultipartUpload), rows)


def find_upload_by_grant(
    connection: Connection, tenant_id: str, grant_id: str
) -> UploadRecord | None:
    """Find the upload of one of a tenant's grants by the grant's id."""
    batch_id, _, item_number = grant_id.rpartition(".")
    if not _ITEM_NUMBER(item_number):
        return None
    query = (
        select(MultipartUpload)
        .join(Batch, Batch.batch_number == MultipartUpload.batch_number)
        .where(Batch.tenant == tenant_id, Batch.batch_id == batch_id)
        .where(MultipartUpload.item_number == int(item_number))
    )
    row = connection.execute(query).one_or_none()
    return None if row is None else _record(row)


def take_paid_parts(connection: Connection, tenant_id: str, grant_id: str, number: int) -> int:
    """Return number if the charge of an upload paid for that many more grants of parts, else 0.

    It paid for as many as the upload has parts.
    """
    record = find_upload_by_grant(connection, tenant_id, grant_id)
    if record is None:
        return 0
    granted = MultipartUpload.granted_parts + number
    is_paid = granted <= record.upload.plan.part_count
    taken = update(MultipartUpload).where(*_is_upload(record), is_paid)
    return number * connection.execute(taken.values(granted_parts=granted)).rowcount


def buckets_with_expired_uploads(connection: Connection, now: datetime) -> list[str]:
    """Return the bucket profiles that have uploads to abort or to check after their abort."""
    query = select(MultipartUpload.bucket).distinct().where(*_is_expired(now))
    return list(connection.scalars(query))


def expired_uploads(
    connection: Connection, bucket: str, now: datetime, limit: int
) -> list[UploadRecord]:
    """Return uploads of a bucket profile to abort or to check, in a random order.

    Some cannot be aborted for days: the others must not wait for these.
    """
    query = (
        select(MultipartUpload)
        .where(*_is_expired(now), MultipartUpload.bucket == bucket)
        .order_by(func.random())
        .limit(limit)
    )
    return [_record(row) for row in connection.execute(query)]


def _is_expired(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return MultipartUpload.state.in_(("open", "aborted")), MultipartUpload.expires_at <= now


def end_open_uploads(connection: Connection, batch_number: int, now: datetime) -> int:
    """Let the open uploads of a batch end now, and return their number.

    No further part is granted, and the cleanup aborts them.
    """
    is_open = MultipartUpload.batch_number == batch_number, MultipartUpload.state == "open"
    query = select(func.count()).select_from(MultipartUpload).where(*is_open)
    connection.execute(
        update(MultipartUpload)
        .where(*is_open, MultipartUpload.expires_at > now)
        .values(expires_at=now)
    )
    return connection.execute(query).scalar_one()


def close_upload(connection: Connection, record: UploadRecord) -> bool:
    """Mark an upload as ended; return false if it was before."""
    statement = update(MultipartUpload).where(*_is_upload(record)).values(state="closed")
    was_closed = connection.execute(statement.where(MultipartUpload.state != "closed"))
    return was_closed.rowcount == 1


def mark_aborted(connection: Connection, record: UploadRecord, check_at: datetime) -> None:
    """Mark an upload as aborted; whether storage has nothing of it is checked later."""
    is_open = *_is_upload(record), MultipartUpload.state == "open"
    values = {"state": "aborted", "expires_at": check_at}
    connection.execute(update(MultipartUpload).where(*is_open).values(values))


def _is_upload(record: UploadRecord) -> tuple[ColumnElement[bool], ...]:
    return (
        MultipartUpload.batch_number == record.batch_number,
        MultipartUpload.item_number == record.item_number,
    )


def batch_id_of(connection: Connection, batch_number: int) -> str:
    """Return the id that the tenant chose for a batch."""
    query = select(Batch.batch_id).where(Batch.batch_number == batch_number)
    return connection.execute(query).scalar_one()


def uploads_of_chunk(
    connection: Connection, batch_number: int, items: range
) -> dict[int, StartedUpload]:
    """Return the uploads that were started for a chunk's items, open or not, by item number."""
    query = select(MultipartUpload).where(
        MultipartUpload.batch_number == batch_number,
        MultipartUpload.item_number >= items.start,
        MultipartUpload.item_number < items.stop,
    )
    return {row.item_number: _record(row).upload for row in connection.execute(query)}


def _record(row: Any) -> UploadRecord:
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
