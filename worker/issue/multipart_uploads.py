"""Starts the multipart uploads of a chunk or finds recorded ones; aborts what is not committed.

Each upload is recorded before storage is asked to create it, so that none is left behind: not by a
process that is killed, nor by a lost answer, nor by a later item that fails.
"""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import structlog
from sqlalchemy import Connection, select

from models import Batch, Chunk
from valetkey.signing.signing_context import (
    MultipartPlan,
    StartedUpload,
    create_multipart_params,
    plan_parts,
)
from valetkey.wire.grant_ids import grant_id, split_grant_id
from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Multipart, Parts
from worker import hooks
from worker.aws import object_calls
from worker.base.database_engine import read_transaction, write_transaction
from worker.context import Context
from worker.errors import Malformed, StorageSilent, Transient
from worker.ledger import quota_usage
from worker.ledger.batches import read_history
from worker.ledger.multipart_rows import (
    UploadRecord,
    abandon_attempt,
    delete_starts,
    find_upload_by_grant,
    insert_starts,
)
from worker.rules.decisions import (
    StartResults,
    UploadAttempt,
    ceiling_refusal,
    item_refusal,
    pays_for_records,
)
from worker.rules.fingerprints import BATCH_CLOSED
from worker.rules.grant_kinds import issued_cost, reserved_cost
from worker.rules.issued_grants import IssuedItem, storage_name
from worker.rules.policy_rules import RequestContext, refuse
from worker.rules.quota_rules import admit_cost
from worker.rules.storage_errors import ErrorResponse, refuse_by_error


def _refusal_before_start(
    request: RequestContext, items: Collection[Item], context: Context
) -> Refusal | None:
    """Return the refusal of a chunk that is decided already, or whose batch exceeds a quota.

    items are those of this chunk that policy allows. The commit decides; without this, a
    tenant beyond its quota could have the workers start and abort a thousand uploads per message.
    """
    message, tenant, now = request.message, request.tenant, context.now()
    later = message.total - len(message.items)
    cost = reserved_cost(message.grant, later).plus(issued_cost(message.grant, items))
    with read_transaction(context.engine) as connection:
        history = read_history(connection, tenant.id, message.batch, message.chunk, now)
        if history.is_final_for(message):
            return BATCH_CLOSED  # the committed result replaces it
        is_limited = not pays_for_records(len(items), len(message.items))
        if is_limited and quota_usage.is_beyond_ceiling(connection, tenant.id, now):
            return ceiling_refusal(quota_usage.MAX_UNCHARGED_BYTES, now)
        if history.batch is not None:
            return None  # its first chunk has reserved the cost of all
        usage = quota_usage.read_usage(connection, tenant.id, now)
    return admit_cost(tenant, usage, cost, now).refusal


def find_continued_upload(
    tenant_id: str, terms: Parts, context: Context, now: datetime
) -> UploadRecord | Refusal:
    """Return the tenant's open upload that the requested parts belong to, or a refusal."""
    record = find_upload(tenant_id, terms, context)
    if isinstance(record, Refusal):
        return record
    if record is None or not record.is_open or record.expires_at <= now:
        text = "the tenant has no open multipart upload under this grant id"
        return refuse(Code.UPLOAD_UNKNOWN, "grant.of", text)
    if record.bucket != terms.bucket:
        text = "the upload is in another bucket profile"
        return refuse(Code.UPLOAD_UNKNOWN, "grant.bucket", text)
    return record


def find_upload(tenant_id: str, terms: Parts, context: Context) -> UploadRecord | Refusal | None:
    """Return the upload that parts belong to, open or not; None if there is none.

    Returns a refusal if the grant of the upload was withdrawn: its parts are grants of their own.
    """
    with read_transaction(context.engine) as connection:
        record = find_upload_by_grant(connection, tenant_id, terms.of)
        return record and (_find_withdrawal(connection, record, terms.of, context) or record)


def _find_withdrawal(
    connection: Connection, record: UploadRecord, of: str, context: Context
) -> Refusal | None:
    """Return the refusal of an upload whose grant was withdrawn; of is the grant's id."""
    batch_id, item_number = split_grant_id(of)
    query = select(Chunk.issued_at).join(Batch, Batch.batch_number == Chunk.batch_number)
    is_chunk = Chunk.chunk_number == item_number // Batch.chunk_size
    is_batch = Chunk.batch_number == record.batch_number
    issued_at = connection.scalars(query.where(is_batch, is_chunk)).one()
    bucket = context.config.current().buckets.get(record.bucket)
    storage = None if bucket is None else storage_name(bucket)
    item = IssuedItem(batch_id, item_number, record.bucket, storage, record.object_key)
    refusals = hooks.withdrawn(connection, record.tenant_id, issued_at, [item])
    refusal = refusals.get(item_number)
    return refusal and refusal.model_copy(update={"field": "grant.of"})


MIN_STARTING, STARTING_PER_ITEM = timedelta(seconds=20), timedelta(milliseconds=100)
"""The time after which an attempt starts no further upload, and what each item adds to it.

Other tenants wait for the worker meanwhile. The largest chunk has two minutes.
"""

MAX_ABORTING = timedelta(seconds=5)
"""The time after which an attempt leaves the uploads that it began to the cleanup."""

ABANDONED_AFTER = timedelta(minutes=5)
"""The time after which the uploads of an attempt that did not end are cleaned up."""

CLEANUP_DELAY = timedelta(minutes=1)
"""The time in which storage may still create an upload for a call that it did not answer."""

log = structlog.get_logger()


class _Start(NamedTuple):
    """An upload to start: its item, and the item's path in the message."""

    item: Item
    field: str
    plan: MultipartPlan


class UploadStarter:
    """One attempt to start the uploads of a chunk; either all that it starts are used, or none."""

    def __init__(self, request: RequestContext, terms: Multipart, context: Context) -> None:
        self._request = request
        self._terms = terms
        self._context = context
        self._id = context.new_lease()
        self._starts: dict[int, _Start] = {}
        self._uploads: dict[int, StartedUpload] = {}
        self._refusals: dict[int, Refusal] = {}
        self._uncertain: set[int] = set()
        self._is_silent = False

    @property
    def attempt(self) -> UploadAttempt | None:
        """The attempt; None as long as no upload is recorded for it."""
        if not self._starts:
            return None
        cleanup_at = self._request.now + ABANDONED_AFTER
        return UploadAttempt(self._id, self._uploads, frozenset(self._uncertain), cleanup_at)

    @property
    def results(self) -> StartResults:
        """The uploads that were started, and the items for which storage refused to."""
        return {**self._uploads, **self._refusals}

    def start_all(self) -> Refusal | None:
        """Start an upload for each item that policy allows.

        If storage refuses an item, the others continue. If it would refuse every item, that refusal
        is returned. Raises Transient and Malformed. Unless all is well, call `abort`.
        """
        starts = self._plan()
        if not starts:
            return None
        request, s3 = self._request, self._context.s3
        items = [start.item for start in starts.values()]
        refusal = _refusal_before_start(request, items, self._context)
        if refusal is not None:
            return refusal
        s3.silent_buckets.check(request.bucket, request.now)
        client = s3.client(
            request.bucket, request.tenant.name, request.policy.prefixes, request.now
        )
        self._starts = starts  # a transaction that fails may be committed
        object_keys = {number: start.item.key for number, start in starts.items()}
        cleanup_at = request.now + ABANDONED_AFTER
        with write_transaction(self._context.engine) as connection:
            insert_starts(connection, self._id, request, object_keys, cleanup_at)
        for number, start in starts.items():
            refusal = self._start(number, start, client)
            if refusal is not None:
                return refusal
        return None

    def _plan(self) -> dict[int, _Start]:
        message, terms, starts = self._request.message, self._terms, {}
        for index, item in enumerate(message.items):
            field, plan = f"items[{index}]", plan_parts(item.size or 0, terms.part_size)
            refusal = item_refusal(item, terms, self._request.policy, field)
            if refusal is None and plan is not None:
                starts[message.first_item + index] = _Start(item, field, plan)
        return starts

    def _start(self, number: int, start: _Start, client: Any) -> Refusal | None:
        """Start one upload; return a refusal that holds for all items."""
        request, bucket = self._request, self._request.bucket
        limit = MIN_STARTING + len(self._starts) * STARTING_PER_ITEM
        if self._context.now() > request.now + limit:
            self._context.s3.silent_buckets.add(bucket, self._context.now())
            text = "storage takes too long to start the uploads of this message"
            raise Transient(text, "storage")
        params = create_multipart_params(self._terms, grant_id(request.message.batch, number))
        self._uncertain.add(number)
        try:
            created = object_calls.start_upload(client, bucket.bucket, start.item.key, params)
        except StorageSilent:
            self._is_silent = True
            self._context.s3.silent_buckets.add(bucket, self._context.now())
            raise
        if isinstance(created, object_calls.CreatedUpload):
            self._uploads[number] = StartedUpload(created.upload_id, start.plan)
            if created.is_only:
                self._uncertain.discard(number)
            return None
        if created.is_answer_to_call:
            self._uncertain.discard(number)
        return self._refuse(number, start.field, created)

    def _refuse(self, number: int, field: str, answer: ErrorResponse) -> Refusal | None:
        request, bucket = self._request, self._request.bucket
        prefixes, s3 = request.policy.prefixes, self._context.s3
        s3.check_rejection(answer, bucket, request.tenant.name, prefixes, request.now)
        refused = refuse_by_error(answer, field)
        log.warning(
            "storage_refused",
            tenant=request.tenant.id,
            bucket=bucket.name,
            batch=request.message.batch,
            problem=answer.words,
        )
        if not refused.is_of_item:
            return refused.refusal
        key = {"key": self._starts[number].item.key}
        self._refusals[number] = refused.refusal.model_copy(update=key)
        return None

    def abort(self) -> None:
        """Abort the uploads that were started and are not recorded with their grants.

        What cannot be aborted now is left to the cleanup, and so is everything if storage does not
        answer: waiting for it would delay the messages of others. Raises nothing: while the
        database is out of reach, nothing is aborted, because the transaction that failed may be
        committed.
        """
        if not self._starts:
            return
        started = {number: upload.upload_id for number, upload in self._uploads.items()}
        cleanup_at = self._context.now() + CLEANUP_DELAY
        try:
            with write_transaction(self._context.engine) as connection:
                left = dict.fromkeys(self._uncertain) | started
                abandoned = abandon_attempt(connection, self._id, left, cleanup_at)
            if self._is_silent:
                return
            aborted = self._abort_started(abandoned & started.keys()) - self._uncertain
            if aborted:
                with write_transaction(self._context.engine) as connection:
                    delete_starts(connection, [(self._id, number) for number in aborted])
        except (Malformed, Transient) as error:
            log.warning("aborts_postponed", attempt=self._id, problem=str(error))

    def _abort_started(self, numbers: set[int]) -> set[int]:
        """Abort the uploads of these items until one fails or it takes long; return those done."""
        request, bucket, now = self._request, self._request.bucket, self._context.now()
        client = self._context.s3.client(bucket, request.tenant.name, request.policy.prefixes, now)
        done: set[int] = set()
        for number in numbers:
            if self._context.now() > now + MAX_ABORTING:
                break
            object_key, upload = self._starts[number].item.key, self._uploads[number]
            try:
                object_calls.abort_upload(client, bucket.bucket, object_key, upload.upload_id)
            except Transient as error:
                log.warning("aborts_postponed", bucket=bucket.name, problem=str(error))
                break
            done.add(number)
        return done
