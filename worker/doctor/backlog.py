"""Unfinished and failed work in the database: webhooks, manifests, reservations, uploads."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, exists, func, select

from models import (
    Batch,
    Chunk,
    Delivery,
    EndedSlot,
    EndpointState,
    Grant,
    Manifest,
    Reservation,
    UploadStart,
)
from valetkey.wire.refusals import Code
from worker.rules.issued_grants import SECOND_LOOK
from worker.webhooks.batch_completion import PENDING

_MAX_BATCHES = 1_000  # of multipart uploads, from the newest on, to look for refusals in
_STORAGE_CODES = (Code.STORAGE_REFUSED.value, Code.BUCKET_UNUSABLE.value)
_IS_PENDING = Delivery.state == PENDING


def oldest_webhook_time(connection: Connection) -> datetime | None:
    """Return the time at which the oldest pending webhook was queued; None if none is pending."""
    return connection.scalar(select(func.min(Delivery.created_at)).where(_IS_PENDING))


def earliest_due_webhook(connection: Connection) -> datetime | None:
    """Return the earliest time of the next attempts of pending webhooks; None if none is pending.

    A time in the past means that an attempt is due. Disabled endpoints do not count.
    """
    is_disabled = exists().where(
        EndpointState.tenant == Delivery.tenant,
        EndpointState.endpoint == Delivery.endpoint,
        EndpointState.disabled_at.is_not(None),
    )
    earliest = select(func.min(Delivery.next_attempt_at)).where(_IS_PENDING, ~is_disabled)
    return connection.scalar(earliest)


def earliest_reservation_expiry(connection: Connection) -> datetime | None:
    """Return the earliest expiry of a reservation; None if there are no reservations.

    A time in the past means that the reservation has expired and is not released yet.
    """
    return connection.scalar(select(func.min(Reservation.expires_at)))


class FailedManifests(NamedTuple):
    """The number of failed manifests, and the problem of the newest one."""

    number: int
    problem: str | None


def failed_manifests(connection: Connection, since: datetime) -> FailedManifests:
    """Return the manifests that have failed since a time."""
    is_failed = Manifest.state == "failed", Manifest.finished_at >= since
    count = connection.scalar(select(func.count()).select_from(Manifest).where(*is_failed)) or 0
    newest = select(Manifest.problem).where(*is_failed).order_by(Manifest.finished_at.desc())
    return FailedManifests(count, connection.scalar(newest.limit(1)))


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


_IS_UNSETTLED = EndedSlot.is_settled.is_(False)


def oldest_ended_slot(connection: Connection) -> datetime | None:
    """Return since when upload slots wait to be settled, or for a second look; None if none do."""
    ended = select(func.min(EndedSlot.ended_at))
    unsettled = connection.scalar(ended.where(_IS_UNSETTLED))
    settled = connection.scalar(ended.where(~_IS_UNSETTLED))
    looks = [unsettled, settled and settled + SECOND_LOOK]
    return min(filter(None, looks), default=None)


def count_ended_slots(connection: Connection) -> dict[str, int]:
    """Count the chunks of upload slots that ended and are not settled, by bucket profile."""
    query = select(EndedSlot.bucket, func.count()).where(_IS_UNSETTLED).group_by(EndedSlot.bucket)
    return {row[0]: row[1] for row in connection.execute(query)}
