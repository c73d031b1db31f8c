"""Aborts uploads that no grant uses: their chunk was not committed, or storage's answer was lost.

An upload whose id is unknown is looked for among the unfinished uploads of its key. Those that a
grant uses are left alone, and so are those that were created at another time than the attempt.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any

import structlog

from worker.aws import objects
from worker.context import Context
from worker.core.kinds.role_session import cleanup_session
from worker.db.engine import read_transaction, write_transaction
from worker.db.upload_starts import (
    AbandonedStart,
    abandon_due_starts,
    delete_starts,
    postpone_starts,
    recorded_upload_ids,
)
from worker.errors import Malformed, Transient
from worker.jobs.single_flight import JobRun
from worker.usecases.upload_starts import ABANDONED_AFTER

GIVE_UP_AFTER = timedelta(days=7)
"""The time after which an upload is left to the bucket's lifecycle rule."""

CLOCK_SKEW = timedelta(minutes=1)
"""The largest difference between the clocks of storage and of a worker."""

MAX_FAILURES = 3
"""The failures in a row after which storage is left alone until the next run."""

_MAX_STARTS = 100  # of one bucket profile in one run
_FIRST_DELAY, _MAX_DELAY = timedelta(minutes=1), timedelta(hours=1)

log = structlog.get_logger()


def abort_abandoned(bucket: str, context: Context, run: JobRun, now: datetime) -> tuple[int, int]:
    """Abort the abandoned uploads of a bucket profile that are due.

    Returns the numbers of records that are ended and postponed. Raises Transient if the database is
    out of reach.
    """
    with write_transaction(context.engine) as connection:
        starts = abandon_due_starts(connection, bucket, now, _MAX_STARTS)
    ended = postponed = failures = 0
    for _, group in groupby(starts, key=lambda start: (start.tenant_id, start.object_key)):
        if failures == MAX_FAILURES or run.is_stopping:
            break
        of_key = list(group)
        try:
            is_ended, failures = _end(of_key, context, now), 0
        except (Malformed, Transient) as error:
            log.warning("aborts_postponed", bucket=bucket, problem=str(error))
            is_ended, failures = False, failures + 1
        given_up = [] if is_ended else [s for s in of_key if s.started_at <= now - GIVE_UP_AFTER]
        done = of_key if is_ended else given_up
        later = [start for start in of_key if start not in done]
        with write_transaction(context.engine) as connection:
            if done:
                delete_starts(connection, done)
            if later:
                postpone_starts(connection, later, now + _delay(later, now))
        for start in given_up:
            log.warning("upload_left", bucket=bucket, batch=start.batch_id, item=start.item_number)
        ended, postponed = ended + len(done), postponed + len(later)
    return ended, postponed


def _delay(starts: Sequence[AbandonedStart], now: datetime) -> timedelta:
    """Wait as long again as since the start, within limits."""
    age = now - max(start.started_at for start in starts)
    return min(max(age, _FIRST_DELAY), _MAX_DELAY)


def _end(starts: Sequence[AbandonedStart], context: Context, now: datetime) -> bool:
    """Abort the uploads of one key; return false if an attempt may still record one of them.

    Raises Transient and Malformed.
    """
    access = context.config.current().find_access(starts[0].tenant_id, starts[0].bucket)
    if access is None:
        return True  # no credentials are configured any more: the bucket's lifecycle rule ends it
    bucket, tenant, policy = access
    client = context.s3.limited_client(bucket, tenant.name, policy.prefixes, now, cleanup_session)
    upload_ids = {start.upload_id for start in starts if start.upload_id is not None}
    unknown = [start for start in starts if start.upload_id is None]
    if unknown:
        found = _find_unknown(unknown, client, bucket.bucket, context)
        if found is None:
            return False
        upload_ids |= found
    for upload_id in upload_ids:
        objects.abort_upload(client, bucket.bucket, starts[0].object_key, upload_id)
    return True


def _find_unknown(
    starts: Sequence[AbandonedStart], client: Any, bucket: str, context: Context
) -> set[str] | None:
    """Return the ids of uploads that these attempts may have created, and that no grant uses.

    Returns None while another attempt is starting an upload of the same key.
    """
    object_key = starts[0].object_key
    listed = objects.list_uploads(client, bucket, object_key)
    # Other profiles may lead to the same bucket, also by another endpoint.
    buckets = context.config.current().buckets.values()
    profiles = {starts[0].bucket, *(b.name for b in buckets if b.bucket == bucket)}
    # After the listing: what was listed was recorded before, as an attempt or with its grant.
    with read_transaction(context.engine) as connection:
        recorded = recorded_upload_ids(connection, profiles, object_key)
    if recorded is None:
        return None
    return {
        upload.upload_id
        for upload in listed
        if upload.upload_id not in recorded and _is_from_attempt(upload, starts)
    }


def _is_from_attempt(upload: objects.ListedUpload, starts: Sequence[AbandonedStart]) -> bool:
    created_at = upload.created_at
    return created_at is not None and any(
        start.started_at - CLOCK_SKEW <= created_at <= start.started_at + ABANDONED_AFTER
        for start in starts
    )
