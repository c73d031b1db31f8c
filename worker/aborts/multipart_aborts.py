"""Aborts the multipart uploads of expired grants and of chunks that were not committed.

The bytes of an upload are given back only if storage had it as unfinished before the abort, has it
no more, and some minutes later has no object that its grant stored: the completion is a presigned
request, which can still be under way. An upload that its client completed or aborted is unknown to
storage in the same way: its bytes stay charged.

An upload whose id is unknown is looked for among the unfinished uploads of its key. Those that a
grant uses are left alone, and so are those that were created at another time than the attempt.
Each bucket profile has a thread of its own.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any, Literal

import structlog

from valetkey.wire.grant_ids import grant_id
from worker.aborts.abort_rows import (
    AbandonedStart,
    abandon_due_starts,
    batch_id_of,
    buckets_to_clean_up,
    close_upload,
    expired_uploads,
    give_back_upload,
    mark_aborted,
    postpone_starts,
    recorded_upload_ids,
)
from worker.aborts.listed_uploads import ListedUpload, list_uploads
from worker.aws import object_calls
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.jobs import JobRun
from worker.context import Context
from worker.errors import Malformed, Transient
from worker.issue.multipart_uploads import ABANDONED_AFTER
from worker.ledger.multipart_rows import UploadRecord, delete_starts, find_upload_by_grant
from worker.rules.tenant_config import Bucket, TenantAccess
from worker.shared.limited_sessions import cleanup_session
from worker.shared.object_files import find_grant_id
from worker.shared.threads import ThreadGroup

CHECK_DELAY = timedelta(minutes=5)
"""The time between an abort and the check. Storage may take minutes to complete an upload."""

log = structlog.get_logger()


def _abort(record: UploadRecord, context: Context, now: datetime) -> bool | None:
    """Abort an upload. Return whether storage had it as unfinished; None if it is not known.

    Raises Transient and Malformed.
    """
    access = context.config.current().find_access(record.tenant_id, record.bucket)
    if access is None:
        return None  # no credentials are configured any more: the bucket's lifecycle rule ends it
    client, had_upload = _cleanup_client(access, context, now), None
    try:
        had_upload = _is_listed(record, access.bucket, client)
    except Transient as error:  # the abort does not depend on it
        log.warning("upload_not_listed", bucket=record.bucket, problem=str(error))
    _abort_at(record, access.bucket, client)
    return had_upload


def _is_listed(record: UploadRecord, bucket: Bucket, client: Any) -> bool:
    listed = list_uploads(client, bucket.bucket, record.object_key)
    return any(upload.upload_id == record.upload.upload_id for upload in listed)


def _abort_at(record: UploadRecord, bucket: Bucket, client: Any) -> None:
    upload_id = record.upload.upload_id
    object_calls.abort_upload(client, bucket.bucket, record.object_key, upload_id)


def _is_nothing_stored(record: UploadRecord, context: Context, now: datetime) -> bool:
    """Return true if storage has neither an aborted upload nor an object that its grant stored.

    An upload that is there again is aborted again: parts that were under way during the abort can
    bring it back (AWS: API_AbortMultipartUpload.html). One that is gone is not, because storage may
    refuse that: the statement of a revocation denies it on some servers. Raises Transient and
    Malformed.
    """
    access = context.config.current().find_access(record.tenant_id, record.bucket)
    if access is None:
        return False
    cleanup_client = _cleanup_client(access, context, now)
    if _is_listed(record, access.bucket, cleanup_client):
        _abort_at(record, access.bucket, cleanup_client)
        raise Transient("storage still has an upload that was aborted")
    with read_transaction(context.engine) as connection:
        batch_id = batch_id_of(connection, record.batch_number)
    bucket, tenant, policy = access
    client: Any = context.s3.client(bucket, tenant.name, policy.prefixes, now)
    stored_by = find_grant_id(client, bucket.bucket, record.object_key)
    return stored_by != grant_id(batch_id, record.item_number)


def _cleanup_client(access: TenantAccess, context: Context, now: datetime) -> Any:
    bucket, tenant, policy = access
    return context.s3.client(bucket, tenant.name, policy.prefixes, now, cleanup_session)


GIVE_UP_AFTER = timedelta(days=7)
"""The time after which an upload is left to the bucket's lifecycle rule."""

CLOCK_SKEW = timedelta(minutes=1)
"""The largest difference between the clocks of storage and of a worker."""

MAX_FAILURES = 3
"""The failures in a row after which storage is left alone until the next run."""

_MAX_STARTS = 100  # of one bucket profile in one run
_FIRST_DELAY, _MAX_DELAY = timedelta(minutes=1), timedelta(hours=1)


def abort_abandoned(bucket: str, context: Context, run: JobRun, now: datetime) -> Counter[str]:
    """Abort the abandoned uploads of a bucket profile that are due.

    Returns the numbers of records that are ended and postponed. Raises Transient if the database is
    out of reach.
    """
    with write_transaction(context.engine) as connection:
        starts = abandon_due_starts(connection, bucket, now, _MAX_STARTS)
    counts, failures = Counter[str](), 0
    for _, group in groupby(starts, key=lambda start: (start.tenant, start.object_key)):
        if failures == MAX_FAILURES or run.is_stopping:
            break
        of_key = list(group)
        try:
            is_ended, failures = _end_starts(of_key, context, now), 0
        except (Malformed, Transient) as error:
            log.warning("aborts_postponed", bucket=bucket, problem=str(error))
            is_ended, failures = False, failures + 1
        limit = now - GIVE_UP_AFTER
        later = [] if is_ended else [start for start in of_key if start.started_at > limit]
        done = [start for start in of_key if start not in later]
        with write_transaction(context.engine) as connection:
            delete_starts(connection, [start.key for start in done])
            if later:
                keys = [start.key for start in later]
                postpone_starts(connection, keys, now + _next_delay(later, now))
        for start in done if not is_ended else ():
            log.warning("upload_left", bucket=bucket, batch=start.batch_id, item=start.item_number)
        counts.update(ended=len(done), postponed=len(later))
    return counts


def _next_delay(starts: Sequence[AbandonedStart], now: datetime) -> timedelta:
    """Wait as long again as since the start, within limits."""
    age = now - max(start.started_at for start in starts)
    return min(max(age, _FIRST_DELAY), _MAX_DELAY)


def _end_starts(starts: Sequence[AbandonedStart], context: Context, now: datetime) -> bool:
    """Abort the uploads of one key; return false if an attempt may still record one of them.

    Raises Transient and Malformed.
    """
    access = context.config.current().find_access(starts[0].tenant, starts[0].bucket)
    if access is None:
        return True  # no credentials are configured any more: the bucket's lifecycle rule ends it
    client, bucket = _cleanup_client(access, context, now), access.bucket.bucket
    upload_ids = {start.upload_id for start in starts if start.upload_id is not None}
    unknown = [start for start in starts if start.upload_id is None]
    if unknown:
        found = _find_unknown(unknown, client, bucket, context)
        if found is None:
            return False
        upload_ids |= found
    for upload_id in upload_ids:
        object_calls.abort_upload(client, bucket, starts[0].object_key, upload_id)
    return True


def _find_unknown(
    starts: Sequence[AbandonedStart], client: Any, bucket: str, context: Context
) -> set[str] | None:
    """Return the ids of uploads that these attempts may have created, and that no grant uses.

    Returns None while another attempt is starting an upload of the same key.
    """
    object_key = starts[0].object_key
    listed = list_uploads(client, bucket, object_key)
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


def _is_from_attempt(upload: ListedUpload, starts: Sequence[AbandonedStart]) -> bool:
    created_at = upload.created_at
    return created_at is not None and any(
        start.started_at - CLOCK_SKEW <= created_at <= start.started_at + ABANDONED_AFTER
        for start in starts
    )


MAX_BUCKETS = 8
"""The bucket profiles whose uploads are aborted at the same time."""

_MAX_ABORTS = 100  # uploads of one bucket profile in one run
_WAIT = 1.0  # seconds between two reports of progress

_Outcome = Literal["ended", "left", "postponed"]


def abort_expired_uploads(context: Context, run: JobRun | None = None) -> dict[str, int]:
    """Abort uploads whose grants have expired, and those that no grant uses.

    Returns their numbers by outcome, in a dict with the keys ended and postponed. Storage that does
    not respond delays only the uploads of its own bucket profiles. Raises Transient.
    """
    run, now = run or JobRun(), context.now()
    counts = Counter(ended=0, postponed=0)
    with read_transaction(context.engine) as connection:
        buckets = buckets_to_clean_up(connection, now)
    # In another order each time, so that no bucket profile always waits for the same slow ones.
    buckets.sort(key=lambda _: context.random())
    threads: ThreadGroup[str, Counter[str]] = ThreadGroup(
        partial(_abort_in_bucket, context=context, run=run, now=now), "abort"
    )
    while buckets or threads.running:
        while buckets and threads.running < MAX_BUCKETS and not run.is_stopping:
            threads.start(buckets.pop())
        for _, of_bucket in threads.wait(_WAIT):
            counts.update(of_bucket)
            run.progress()
        if run.is_stopping:
            break
    return dict(counts)


def abort_upload(tenant_id: str, grant_id: str, context: Context) -> None:
    """Abort the upload of a grant before the grant ends, if that can be done now.

    Otherwise it is aborted when the grant has ended. Raises Transient if the database is out of
    reach.
    """
    with read_transaction(context.engine) as connection:
        record = find_upload_by_grant(connection, tenant_id, grant_id)
    if record is not None and record.is_open:
        _end_upload(record, context, context.now())


def _abort_in_bucket(bucket: str, context: Context, run: JobRun, now: datetime) -> Counter[str]:
    counts, failures = Counter[str](), 0
    try:
        with read_transaction(context.engine) as connection:
            records = expired_uploads(connection, bucket, now, _MAX_ABORTS)
        for record in records:
            if failures == MAX_FAILURES or run.is_stopping:
                break
            outcome = _end_upload(record, context, now)
            counts["postponed" if outcome == "postponed" else "ended"] += 1
            failures = 0 if outcome == "ended" else failures + 1
        counts += abort_abandoned(bucket, context, run, now)
    except Transient as error:
        log.warning("aborts_postponed", bucket=bucket, problem=str(error))
    return counts


def _end_upload(record: UploadRecord, context: Context, now: datetime) -> _Outcome:
    """Abort an upload or check its abort. One that fails after a week is left to the bucket.

    That counts as a failure: storage that fails three times in a row may be unreachable, and
    the uploads that follow must not be left as well.
    """
    is_stored_nowhere = False
    outcome: _Outcome = "ended"
    try:
        if record.is_aborted:
            is_stored_nowhere = _is_nothing_stored(record, context, now)
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
