"""Aborts the multipart uploads of expired grants and of chunks that were not committed.

The bytes of an upload that storage had until then are given back after a second look at storage.

Each bucket profile has a thread of its own.
"""

from datetime import datetime
from functools import partial
from typing import Any, Literal

import structlog

from worker.aws import objects
from worker.context import Context
from worker.db.engine import read_transaction, write_transaction
from worker.db.multiparts import (
    UploadRecord,
    buckets_with_expired_uploads,
    close_upload,
    expired_uploads,
    find_upload_by_grant,
    mark_aborted,
)
from worker.db.reservations import give_back_upload
from worker.db.upload_starts import buckets_with_due_starts
from worker.errors import Malformed, Transient
from worker.jobs.single_flight import JobRun
from worker.jobs.thread_group import ThreadGroup
from worker.usecases.upkeep.abandoned_uploads import GIVE_UP_AFTER, MAX_FAILURES, abort_abandoned
from worker.usecases.upkeep.aborted_uploads import CHECK_DELAY, is_nothing_stored, is_unfinished

log = structlog.get_logger()

MAX_BUCKETS = 8
"""The bucket profiles whose uploads are aborted at the same time."""

_MAX_ABORTS = 100  # uploads of one bucket profile in one run
_WAIT = 1.0  # seconds between two reports of progress

_Counts = tuple[int, int]  # ended and postponed uploads
_Outcome = Literal["ended", "left", "postponed"]


def abort_expired(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Abort uploads whose grants have expired, and those that no grant uses.

    Returns the numbers of ended and postponed ones. Storage that does not respond delays only the
    uploads of its own bucket profiles. Raises Transient.
    """
    run, now = run or JobRun(), context.now()
    ended = postponed = 0
    with read_transaction(context.engine) as connection:
        expired = buckets_with_expired_uploads(connection, now)
        buckets = sorted({*expired, *buckets_with_due_starts(connection, now)})
    # In another order each time, so that no bucket profile always waits for the same slow ones.
    buckets.sort(key=lambda _: context.random())
    threads: ThreadGroup[str, _Counts] = ThreadGroup(
        partial(_abort_in_bucket, context=context, run=run, now=now), "abort"
    )
    while buckets or threads.running:
        while buckets and threads.running < MAX_BUCKETS and not run.is_stopping:
            threads.start(buckets.pop())
        for _, counts in threads.wait(_WAIT):
            ended, postponed = ended + counts[0], postponed + counts[1]
            run.progress()
        if run.is_stopping:
            break
    return {"ended": ended, "postponed": postponed}


def abort_upload(tenant_id: str, grant_id: str, context: Context) -> None:
    """Abort the upload of a grant before the grant ends, if that can be done now.

    Otherwise it is aborted when the grant has ended. Raises Transient if the database is out of
    reach.
    """
    with read_transaction(context.engine) as connection:
        record = find_upload_by_grant(connection, tenant_id, grant_id)
    if record is not None and record.is_open:
        _end(record, context, context.now())


def _abort_in_bucket(bucket: str, context: Context, run: JobRun, now: datetime) -> _Counts:
    ended = postponed = failures = 0
    try:
        with read_transaction(context.engine) as connection:
            records = expired_uploads(connection, bucket, now, _MAX_ABORTS)
        for record in records:
            if failures == MAX_FAILURES or run.is_stopping:
                break
            outcome = _end(record, context, now)
            is_postponed = outcome == "postponed"
            ended, postponed = ended + (not is_postponed), postponed + is_postponed
            failures = 0 if outcome == "ended" else failures + 1
        abandoned = abort_abandoned(bucket, context, run, now)
        ended, postponed = ended + abandoned[0], postponed + abandoned[1]
    except Transient as error:
        log.warning("aborts_postponed", bucket=bucket, problem=str(error))
    return ended, postponed


def _end(record: UploadRecord, context: Context, now: datetime) -> _Outcome:
    """Abort an upload or check its abort. One that fails after a week is left to the bucket.

    That counts as a failure: storage that fails three times in a row may be away, and the uploads
    that follow must not be left as well.
    """
    is_stored_nowhere = False
    outcome: _Outcome = "ended"
    try:
        if record.is_aborted:
            is_stored_nowhere = is_nothing_stored(record, context, now)
        elif _abort(record, context, now):
            with write_transaction(context.engine) as connection:
                mark_aborted(connection, record, now + CHECK_DELAY)
            return "ended"
    except Exception as error:
        item = {"batch_number": record.batch_number, "item": record.item_number}
        if not isinstance(error, Malformed | Transient):
            log.exception("abort_failed", **item)
        if record.expires_at > now - GIVE_UP_AFTER:
            return "postponed"
        outcome = "left"
        log.warning("upload_left", bucket=record.bucket, **item)
    with write_transaction(context.engine) as connection:
        if close_upload(connection, record) and is_stored_nowhere:
            size = record.upload.plan.size
            give_back_upload(connection, record.batch_number, record.item_number, size)
    return outcome


def _abort(record: UploadRecord, context: Context, now: datetime) -> bool:
    """Abort an upload; return true if storage had it before. Raises Transient and Malformed."""
    access = context.config.current().find_access(record.tenant_id, record.bucket)
    if access is None:
        return False  # no credentials are configured any more: the bucket's lifecycle rule ends it
    bucket, tenant, policy = access
    had_upload = is_unfinished(record, access, context, now)
    client: Any = context.s3.client(bucket, tenant.name, policy.prefixes, now)
    objects.abort_upload(client, bucket.bucket, record.object_key, record.upload.upload_id)
    return had_upload
