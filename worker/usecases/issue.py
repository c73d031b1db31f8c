"""Issues the grants of a chunk: admit, sign, and commit before anything signed is returned."""

from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import Multipart, Parts
from worker.context import Context
from worker.core.kinds.registry import reserved_cost
from worker.core.policy.admission import Admission, admit
from worker.core.policy.decide import decide_chunk, start_no_upload
from worker.core.policy.decisions import (
    ChunkDecision,
    ChunkRequest,
    chunk_outcome,
    outcome_without_items,
    refuse_chunk,
)
from worker.core.policy.history import BATCH_CLOSED, BATCH_CONFLICT, BatchHistory, RecordedBatch
from worker.core.policy.request_rules import calls_back
from worker.core.policy.uncharged import NotRecorded, ceiling_refusal
from worker.core.quotas.admission import admit_cost
from worker.core.quotas.cost import NO_COST
from worker.core.tenants.config import TenantConfig
from worker.db import usage
from worker.db.batch_history import read_history
from worker.db.batches import (
    InsertedBatch,
    NewChunk,
    admit_uncharged,
    append_chunk_leaf,
    insert_batch,
    insert_chunk,
    lock_batch,
)
from worker.db.engine import autocommit_read, write_transaction
from worker.db.manifests import insert_manifest
from worker.db.multiparts import UploadRecord, insert_uploads
from worker.db.outbox import insert_delivery
from worker.db.rejections import NOT_RECORDED, count_rejection
from worker.db.reservations import (
    insert_chunk_reservation,
    insert_remaining_reservation,
    take_from_remaining,
)
from worker.db.upload_starts import take_starts
from worker.errors import Transient
from worker.usecases.multipart import find_continued_upload, has_final_result
from worker.usecases.reissue import reissue_chunk_by_number
from worker.usecases.signing_context import first_signing_context
from worker.usecases.upload_starts import UploadStarter

# While a decision is written, the batch can be closed, and then this very chunk be committed.
_MAX_CONCURRENT_CHANGES = 2


class DuplicateChunk(NamedTuple):
    """The chunk was committed by an earlier message; batch_number identifies its batch."""

    batch_number: int


_Written = ChunkDecision | DuplicateChunk | Refusal


class ConcurrentChange(Exception):
    """Another process committed a change that affects the decision. Try again."""


def issue_chunk(request: ChunkRequest, config: TenantConfig, context: Context) -> dict[str, Any]:
    """Decide on a chunk and return its outcome: grants, or a refusal.

    config is the one that authenticated the message. Raises Transient if the database, credentials
    or storage are unreachable; the same message, sent again, then gets what was committed, if any.
    """
    message, now = request.message, context.now()
    admission = admit(message, request.tenant, config, now)
    if isinstance(admission, Refusal):
        committed = _commit_or_reissue(request, refuse_chunk(message, admission, now), context)
    else:
        committed = _issue_admitted(request, admission, context, now)
    outcome = chunk_outcome if message.manifest is None else outcome_without_items
    return outcome(message.batch, message.chunk, committed)


def _issue_admitted(
    request: ChunkRequest, admission: Admission, context: Context, now: datetime
) -> ChunkDecision:
    if not isinstance(admission.terms, Multipart):
        return _commit_or_reissue(request, _decide(request, admission, None, context, now), context)
    if has_final_result(request, context):
        decision = refuse_chunk(request.message, BATCH_CLOSED, now)
        return _commit_or_reissue(request, decision, context)  # the committed result replaces it
    starter = UploadStarter(request, admission, admission.terms, context, now)
    is_used = False
    try:
        decision = _decide(request, admission, starter, context, now)
        committed = _commit_or_reissue(request, decision, context)
        is_used = committed.attempt == starter.attempt
    finally:
        if not is_used:
            starter.abort()
    return committed


def _decide(
    request: ChunkRequest,
    admission: Admission,
    starter: UploadStarter | None,
    context: Context,
    now: datetime,
) -> ChunkDecision:
    message = request.message
    upload: UploadRecord | Refusal | None = None
    if isinstance(message.grant, Parts):
        upload = find_continued_upload(request.tenant.id, message.grant, context, now)
    if isinstance(upload, Refusal):
        return refuse_chunk(message, upload, now)
    signing = first_signing_context(request, admission, upload, context.s3, now)
    if isinstance(signing, Refusal):
        return refuse_chunk(message, signing, now)
    if starter is None:
        return decide_chunk(message, admission, signing, start_no_upload, upload)
    refusal = starter.start_all()
    if refusal is not None:
        return refuse_chunk(message, refusal, now)
    decision = decide_chunk(message, admission, signing, starter.find, upload)
    return replace(decision, attempt=starter.attempt)


def _commit_or_reissue(
    request: ChunkRequest, decision: ChunkDecision, context: Context
) -> ChunkDecision:
    """Commit a decision, or return the decision that was committed before it."""
    now = context.now()
    chunk = NewChunk.prepare(request, decision, now)
    try:
        committed = _write_with_retries(chunk, context)
    except NotRecorded as error:
        return _answer_unrecorded(chunk, error.decisions[request.message.batch], context)
    if isinstance(committed, ChunkDecision):
        return committed
    with autocommit_read(context.engine) as connection:
        quotas = usage.read_quota_states(connection, request.tenant, now)
    if isinstance(committed, Refusal):
        return replace(refuse_chunk(request.message, committed, now), quotas=quotas)
    reissued = reissue_chunk_by_number(committed.batch_number, request.message.chunk, context)
    return replace(reissued, quotas=quotas)


def _answer_unrecorded(chunk: NewChunk, decision: ChunkDecision, context: Context) -> ChunkDecision:
    """Count a message of which nothing is recorded. Its refusals stay, and nothing is granted."""
    (message, tenant, *_), now = chunk.request, chunk.now
    with write_transaction(context.engine) as connection:
        count_rejection(connection, NOT_RECORDED, tenant.id, chunk.header_fingerprint, now)
        quotas = usage.read_quota_states(connection, tenant, now)
    if decision.issued:
        decision = refuse_chunk(message, ceiling_refusal(usage.MAX_UNCHARGED_BYTES, now), now)
    return replace(decision, quotas=quotas, attempt=None)


def _write_with_retries(chunk: NewChunk, context: Context) -> _Written:
    """Write a decision in one transaction: its rows, its cost, and what has to follow from it.

    The first chunk to arrive opens the batch: it charges for the whole batch, or the whole batch is
    refused. Returns the decision as committed, DuplicateChunk, or the refusal of a message that
    contradicts what was committed under its batch id. Raises NotRecorded.
    """
    for _ in range(_MAX_CONCURRENT_CHANGES):
        with suppress(ConcurrentChange, IntegrityError), write_transaction(context.engine) as conn:
            return _write_decision(conn, chunk)
    with write_transaction(context.engine) as conn:
        return _write_decision(conn, chunk)


def _write_decision(connection: Connection, chunk: NewChunk) -> _Written:
    history = _locked_history(connection, chunk.request, chunk.now)
    if history.batch is None:
        return _open_batch(connection, chunk, is_cancelled=history.is_cancelled)
    if history.conflicts_with(chunk.header_fingerprint, chunk.items_fingerprint):
        return BATCH_CONFLICT
    if history.chunk is not None:
        return DuplicateChunk(history.batch.batch_number)
    return _continue_batch(connection, chunk, history.batch)


def _locked_history(connection: Connection, request: ChunkRequest, now: datetime) -> BatchHistory:
    message, tenant_id = request.message, request.tenant.id
    # Usually chunk 0 opens its batch, and every other chunk finds it open.
    if message.chunk == 0:
        lock_batch(connection, tenant_id, message.batch)
    history = read_history(connection, tenant_id, message.batch, message.chunk, now)
    if history.batch is None and message.chunk != 0:
        lock_batch(connection, tenant_id, message.batch)
        history = read_history(connection, tenant_id, message.batch, message.chunk, now)
    return history


def _open_batch(connection: Connection, chunk: NewChunk, *, is_cancelled: bool) -> ChunkDecision:
    """Open a batch with its first chunk: charge for all of it, or refuse all of it."""
    (message, tenant, *_), decision, now = chunk.request, chunk.decision, chunk.now
    refusal = BATCH_CLOSED if is_cancelled else decision.refusal
    cost = NO_COST
    if refusal is None:
        cost = reserved_cost(message.grant, message.total).minus(chunk.unused_cost)
    # Charged before it is admitted, because the charge locks the usage rows.
    charged = usage.charge(connection, tenant.id, cost, now)
    quota_admission = admit_cost(tenant, charged, cost, now)
    refusal = refusal or quota_admission.refusal
    if refusal is not None:
        usage.release(connection, tenant.id, cost, now)
        decision = refuse_chunk(message, refusal, now)
    uncharged = admit_uncharged(connection, [chunk], [decision])
    batch = insert_batch(connection, chunk, refusal)
    if refusal is None:
        insert_remaining_reservation(connection, batch.batch_number, chunk.request, now)
        if message.manifest is not None:
            insert_manifest(connection, batch.batch_number, chunk.request, now)
    record = _insert_chunk_rows(connection, batch.batch_number, chunk, decision, now)
    usage.charge_uncharged(connection, tenant.id, uncharged, now)
    append_chunk_leaf(connection, batch, chunk, decision, record)
    return replace(decision, quotas=quota_admission.quotas)


def _continue_batch(connection: Connection, chunk: NewChunk, batch: RecordedBatch) -> ChunkDecision:
    """Add a later chunk, which uses what the first chunk reserved for it."""
    request, decision, now = chunk.request, chunk.decision, chunk.now
    refusal = batch.later_refusal
    if refusal is not None:
        decision = refuse_chunk(request.message, refusal, now)
    number = batch.batch_number
    uncharged = admit_uncharged(connection, [chunk], [decision])
    record = _insert_chunk_rows(connection, number, chunk, decision, batch.decided_at)
    if refusal is None:
        # Last, because other chunks of the batch wait for this row from then on.
        if not take_from_remaining(connection, number, request):
            raise ConcurrentChange
        usage.release(connection, request.tenant.id, chunk.unused_cost, batch.decided_at)
    usage.charge_uncharged(connection, request.tenant.id, uncharged, now)
    append_chunk_leaf(connection, InsertedBatch(number), chunk, decision, record)
    return replace(decision, quotas=usage.read_quota_states(connection, request.tenant, now))


def _insert_chunk_rows(
    connection: Connection,
    batch_number: int,
    chunk: NewChunk,
    decision: ChunkDecision,
    charged_at: datetime,
) -> bytes:
    """Write the chunk, its audit rows, and what follows from them. Returns the chunk's record."""
    request = chunk.request
    record = insert_chunk(connection, batch_number, chunk, decision)
    if decision.attempt is not None:
        if not take_starts(connection, decision.attempt, decision.uploads.keys()):
            raise Transient("the uploads of this message took too long to start", "storage")
        insert_uploads(connection, batch_number, request, decision)
    insert_chunk_reservation(connection, batch_number, request, decision, charged_at)
    if calls_back(request.tenant, request.message):
        insert_delivery(connection, batch_number, request, decision, chunk.now)
    return record
