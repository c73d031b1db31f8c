"""Rows of multipart uploads to abort, and of those whose abort is to be checked."""

from collections.abc import Collection
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    exists,
    func,
    select,
    union,
    update,
)

from models import Batch, MultipartUpload, Reservation, UploadStart
from worker import hooks
from worker.ledger import quota_usage
from worker.ledger.multipart_rows import (
    ABANDONED,
    START_KEY,
    STARTING,
    StartKey,
    UploadRecord,
    is_upload,
    read_upload,
)
from worker.rules.quota_rules import (
    PAST_WINDOWS,
    WINDOWS,
    Cost,
    window_start,
)


def buckets_to_clean_up(connection: Connection, now: datetime) -> list[str]:
    """Return the bucket profiles that have uploads to abort, or to check after their abort."""
    expired = select(MultipartUpload.bucket).where(*_is_expired(now))
    abandoned = select(UploadStart.bucket).where(UploadStart.cleanup_at <= now)
    return sorted(connection.scalars(union(expired, abandoned)))


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
    return [read_upload(row) for row in connection.execute(query)]


def _is_expired(now: datetime) -> tuple[ColumnElement[bool], ...]:
    return MultipartUpload.state.in_(("open", "aborted")), MultipartUpload.expires_at <= now


def close_upload(connection: Connection, record: UploadRecord) -> bool:
    """Mark an upload as ended; return false if it was before."""
    statement = update(MultipartUpload).where(*is_upload(record)).values(state="closed")
    was_closed = connection.execute(statement.where(MultipartUpload.state != "closed"))
    return was_closed.rowcount == 1


def mark_aborted(connection: Connection, record: UploadRecord, check_at: datetime) -> None:
    """Mark an open upload as aborted, and overwrite expires_at with check_at.

    At check_at, the upkeep checks that storage has nothing of it.
    """
    is_open = *is_upload(record), MultipartUpload.state == "open"
    values = {"state": "aborted", "expires_at": check_at}
    connection.execute(update(MultipartUpload).where(*is_open).values(values))


def batch_id_of(connection: Connection, batch_number: int) -> str:
    """Return the id that the tenant chose for a batch."""
    query = select(Batch.batch_id).where(Batch.batch_number == batch_number)
    return connection.execute(query).scalar_one()


class AbandonedStart(NamedTuple):
    """An upload that no grant uses; upload_id is None if it is not known whether there is one."""

    attempt: str
    item_number: int
    tenant: str
    batch_id: str
    bucket: str
    object_key: str
    upload_id: str | None
    started_at: datetime

    @property
    def key(self) -> StartKey:
        """The primary key of the row."""
        return self.attempt, self.item_number


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
    statement = update(UploadStart).where(START_KEY.in_(keys)).values(state=ABANDONED)
    columns = (getattr(UploadStart, name) for name in AbandonedStart._fields)
    rows = connection.execute(statement.returning(*columns))
    return sorted(
        (AbandonedStart(*row) for row in rows),
        key=lambda start: (start.tenant, start.object_key, start.started_at),
    )


def postpone_starts(
    connection: Connection, keys: Collection[StartKey], cleanup_at: datetime
) -> None:
    """Let the cleanup try again later."""
    connection.execute(update(UploadStart).where(START_KEY.in_(keys)).values(cleanup_at=cleanup_at))


def recorded_upload_ids(
    connection: Connection, buckets: Collection[str], object_key: str
) -> set[str] | None:
    """Return the ids of the open uploads of an object key in bucket profiles, which grants use.

    Returns None while an attempt is starting an upload of the key: it may record one.
    """
    is_starting = exists().where(
        UploadStart.bucket.in_(buckets),
        UploadStart.object_key == object_key,
        UploadStart.state == STARTING,
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


def give_back_upload(
    connection: Connection, batch_number: int, item_number: int, size: int
) -> None:
    """Subtract the bytes of one granted upload from usage: storage has nothing of it.

    They leave every window in which they were charged; the grant itself stays counted.
    """
    batch = connection.execute(
        select(Batch.tenant, Batch.chunk_size, Batch.decided_at).where(
            Batch.batch_number == batch_number
        )
    ).one()
    chunk_number = item_number // batch.chunk_size
    is_chunk = Reservation.batch_number == batch_number, Reservation.chunk_number == chunk_number
    less = {Reservation.upload_bytes: Reservation.upload_bytes - size}
    statement = update(Reservation).where(*is_chunk).values(less).returning(Reservation.charged_at)
    charged_at = connection.execute(statement).scalar_one_or_none()
    if charged_at is None:
        kept = hooks.given_back(connection, (batch_number, chunk_number), size)
        if kept is not None and kept.charged_at is None:
            return
        charged_at = kept and kept.charged_at
    # Without a row, the window live is released.
    windows = PAST_WINDOWS if charged_at is None else WINDOWS
    # The whole batch was charged with its first chunk.
    start = charged_at or batch.decided_at
    cost = Cost(upload_bytes=size)
    quota_usage.release_by_window(
        connection,
        {(batch.tenant, window, window_start(window, start)): cost for window in windows},
    )
