"""Unfinished and failed work of the core in the database: reservations and multipart uploads."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from models import Batch, Chunk, Grant, Reservation, UploadStart
from valetkey.wire.refusals import Code

_MAX_BATCHES = 1_000  # of multipart uploads, from the newest on, to look for refusals in
_STORAGE_CODES = (Code.STORAGE_REFUSED.value, Code.BUCKET_UNUSABLE.value)


def earliest_reservation_expiry(connection: Connection) -> datetime | None:
    """Return the earliest expiry of a reservation; None if there are no reservations.

    A time in the past means that the reservation has expired and is not released yet.
    """
    return connection.scalar(select(func.min(Reservation.expires_at)))


def oldest_abandoned_upload(connection: Connection) -> datetime | None:
    """Return the start of the oldest upload that no grant uses; None if there is none."""
    is_abandoned = UploadStart.state == "abandoned"
    return connection.scalar(select(func.min(UploadStart.started_at)).where(is_abandoned))


class RefusedUploads(NamedTuple):
    """A bucket profile, the number of uploads that storage refused to start, and its words."""

    name: str
    number: int
    problem: str


def refused_uploads(connection: Connection, since: datetime) -> list[RefusedUploads]:
    """Return the refused uploads among the newest batches since a time, by bucket profile."""
    recent = (
        select(Batch.batch_number, Batch.bucket)
        .where(Batch.decided_at >= since, Batch.kind == "multipart")
        .order_by(Batch.decided_at.desc())
        .limit(_MAX_BATCHES)
        .subquery()
    )
    query = (
        select(recent.c.bucket, func.count(), func.max(Grant.batch_number))
        .join(recent, recent.c.batch_number == Grant.batch_number)
        .where(Grant.code.in_(_STORAGE_CODES))
        .group_by(recent.c.bucket)
        .order_by(recent.c.bucket)
    )
    return [
        RefusedUploads(bucket, number, _problem_of(connection, newest))
        for bucket, number, newest in connection.execute(query)
    ]


def _problem_of(connection: Connection, batch_number: int) -> str:
    of_chunk = select(Chunk.refusal).where(
        Chunk.batch_number == batch_number, Chunk.refusal.is_not(None)
    )
    of_item = select(Grant.detail).where(
        Grant.batch_number == batch_number, Grant.code.in_(_STORAGE_CODES)
    )
    refusals = connection.scalar(of_chunk.limit(1)), connection.scalar(of_item.limit(1))
    texts = [str(refusal["message"]) for refusal in refusals if refusal and "message" in refusal]
    return texts[0] if texts else "without words"
