"""Rows of multipart uploads that are being started, within the caller's transaction."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, exists, insert, select, tuple_, update

from models import MultipartUpload, UploadStart
from worker.core.policy.decisions import ChunkRequest, UploadAttempt

_STARTING, _ABANDONED = "starting", "abandoned"
_INSERT = insert(UploadStart)


class AbandonedStart(NamedTuple):
    """An upload that no grant uses; upload_id is None if it is not known whether there is one."""

    attempt: str
    item_number: int
    tenant_id: str
    batch_id: str
    bucket: str
    object_key: str
    upload_id: str | None
    started_at: datetime


def insert_starts(
    connection: Connection,
    attempt: UploadAttempt,
    request: ChunkRequest,
    object_keys: Mapping[int, str],
    now: datetime,
) -> None:
    """Insert the uploads that an attempt will start; object_keys are by item number."""
    common = {
        "attempt": attempt.id,
        "tenant": request.tenant.id,
        "batch_id": request.message.batch,
        "bucket": request.message.grant.bucket,
        "state": _STARTING,
        "started_at": now,
        "cleanup_at": attempt.cleanup_at,
    }
    rows = [
        common | {"item_number": number, "object_key": object_key}
        for number, object_key in object_keys.items()
    ]
    connection.execute(_INSERT, rows)


def take_starts(
    connection: Connection, attempt: UploadAttempt, item_numbers: Collection[int]
) -> bool:
    """Remove an attempt's rows in the transaction that records the uploads of these items.

    Rows of uncertain items stay for the cleanup. Returns false if the uploads were abandoned
    meanwhile: then they must not be recorded.
    """
    starting = abandon_attempt(
        connection, attempt.id, dict.fromkeys(attempt.uncertain), attempt.cleanup_at
    )
    return starting.issuperset(item_numbers)


def abandon_attempt(
    connection: Connection,
    attempt: str,
    upload_ids: Mapping[int, str | None],
    cleanup_at: datetime,
) -> set[int]:
    """Leave the uploads with these ids, by item number, to the cleanup; remove the other rows.

    An id is None if storage may have created an upload whose id is unknown. Returns the items of
    the attempt that were neither recorded nor abandoned before.
    """
    is_starting = UploadStart.attempt == attempt, UploadStart.state == _STARTING
    removed = delete(UploadStart).where(*is_starting)
    if upload_ids:
        removed = removed.where(UploadStart.item_number.not_in(upload_ids))
    items = set(connection.scalars(removed.returning(UploadStart.item_number)))
    for item_number, upload_id in upload_ids.items():
        values = {"upload_id": upload_id, "state": _ABANDONED, "cleanup_at": cleanup_at}
        left = update(UploadStart).where(*is_starting, UploadStart.item_number == item_number)
        items |= set(connection.scalars(left.values(values).returning(UploadStart.item_number)))
    return items


def delete_aborted(connection: Connection, attempt: str, item_numbers: Collection[int]) -> None:
    """Delete the rows of an attempt's uploads that were aborted."""
    is_aborted = UploadStart.item_number.in_(item_numbers)
    connection.execute(delete(UploadStart).where(UploadStart.attempt == attempt, is_aborted))


def buckets_with_due_starts(connection: Connection, now: datetime) -> list[str]:
    """Return the bucket profiles with uploads to clean up."""
    query = select(UploadStart.bucket).distinct().where(UploadStart.cleanup_at <= now)
    return list(connection.scalars(query))


def abandon_due_starts(
    connection: Connection, bucket: str, now: datetime, limit: int
) -> list[AbandonedStart]:
    """Abandon and return uploads of a bucket profile that are due, those of a key together."""
    due = (
        select(UploadStart.attempt, UploadStart.item_number)
        .where(UploadStart.bucket == bucket, UploadStart.cleanup_at <= now)
        .order_by(UploadStart.cleanup_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    keys = [tuple(row) for row in connection.execute(due)]
    if not keys:
        return []
    key = tuple_(UploadStart.attempt, UploadStart.item_number)
    statement = update(UploadStart).where(key.in_(keys)).values(state=_ABANDONED)
    columns = (getattr(UploadStart, _COLUMNS.get(name, name)) for name in AbandonedStart._fields)
    rows = connection.execute(statement.returning(*columns))
    return sorted(
        (AbandonedStart(*row) for row in rows),
        key=lambda start: (start.tenant_id, start.object_key, start.started_at),
    )


_COLUMNS = {"tenant_id": "tenant"}


def delete_starts(connection: Connection, starts: Sequence[AbandonedStart]) -> None:
    """Delete uploads that are cleaned up, or given up."""
    connection.execute(delete(UploadStart).where(_is_any_of(starts)))


def postpone_starts(
    connection: Connection, starts: Sequence[AbandonedStart], cleanup_at: datetime
) -> None:
    """Let the cleanup try again later."""
    connection.execute(update(UploadStart).where(_is_any_of(starts)).values(cleanup_at=cleanup_at))


def _is_any_of(starts: Sequence[AbandonedStart]) -> ColumnElement[bool]:
    keys = [(start.attempt, start.item_number) for start in starts]
    return tuple_(UploadStart.attempt, UploadStart.item_number).in_(keys)


def recorded_upload_ids(
    connection: Connection, buckets: Collection[str], object_key: str
) -> set[str] | None:
    """Return the ids of the open uploads of an object key in bucket profiles, which grants use.

    Returns None while an attempt is starting an upload of the key: it may record one.
    """
    is_starting = exists().where(
        UploadStart.bucket.in_(buckets),
        UploadStart.object_key == object_key,
        UploadStart.state == _STARTING,
    )
    # The attempts first: one that ends between the two statements has recorded its upload by then.
    if connection.scalar(select(is_starting)):
        return None
    query = select(MultipartUpload.upload_id).where(
        MultipartUpload.state == "open",
        MultipartUpload.bucket.in_(buckets),
        MultipartUpload.object_key == object_key,
    )
    return set(connection.scalars(query))
