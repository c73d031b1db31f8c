"""The check of multipart uploads: those left behind in storage, and those that it refused."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from models import Batch, Chunk, Grant, UploadStart
from valetkey.wire.refusals import Code
from worker.rules.tenant_config import TenantConfig
from worker.shared.monitoring import Check, WaitingWork, check_waiting

_LAST_DAY = timedelta(days=1)
_MAX_BATCHES = 1_000  # of multipart uploads, from the newest on, to look for refusals in
_STORAGE_CODES = (Code.STORAGE_REFUSED.value, Code.BUCKET_UNUSABLE.value)


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


def check_refused_uploads(refused: Sequence[RefusedUploads]) -> Iterator[Check]:
    """Warn of bucket profiles whose storage has refused to start multipart uploads."""
    for bucket in refused:
        text = f"{bucket.name}: refused {bucket.number:,} in the last day; newest: {bucket.problem}"
        hint = "python -m worker audit list --decision refused"
        yield Check("uploads", "warn", text, hint)


ABANDONED_UPLOADS = WaitingWork(
    "uploads",
    oldest_abandoned_upload,
    timedelta(minutes=15),  # by then an upload that no grant uses is usually aborted
    "none is left behind in storage",
    "uploads that no grant uses are in storage, the oldest for {age}",
    "the log of the upkeep worker says why: aborts_postponed",
)


def database_checks(
    connection: Connection,
    config: TenantConfig,  # noqa: ARG001 - as other features are called
    now: datetime,
) -> Iterator[Check]:
    """Check uploads that no grant uses, and those that storage refused to start."""
    yield check_waiting(ABANDONED_UPLOADS, ABANDONED_UPLOADS.since(connection), now)
    yield from check_refused_uploads(refused_uploads(connection, now - _LAST_DAY))
