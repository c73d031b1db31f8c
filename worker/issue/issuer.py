"""Issues the grants of a chunk, or of a bundle of small requests, in one transaction if possible.

Everything is admitted, signed and committed before anything signed is returned.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import reduce
from typing import NamedTuple, TypeVar

import structlog
from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError, IntegrityError

from valetkey.wire.messages import BundleMessage, ChunkMessage
from valetkey.wire.parsing import parse_bundled
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import Multipart, Parts
from worker import hooks
from worker.base.database_engine import autocommit_read, write_transaction
from worker.base.stages import stage
from worker.context import Context
from worker.errors import Transient
from worker.issue.chunk_signing import first_signing_context, read_recorded, reissue_chunk
from worker.issue.feature_check import require_features
from worker.issue.multipart_uploads import UploadStarter, find_continued_upload
from worker.ledger import quota_usage
from worker.ledger.batches import (
    InsertedBatch,
    NewChunk,
    admit_uncharged,
    insert_chunks,
    insert_new_batches,
    known_batches,
    lock_batches,
    read_history,
)
from worker.ledger.rejections import NOT_RECORDED, count_rejections
from worker.ledger.reservations import take_from_remaining
from worker.ledger.tree_leaves import append_leaf
from worker.rules.admission import admit
from worker.rules.authentication import AuthenticatedMessage, message_digest, parse_claimed_chunk
from worker.rules.decisions import (
    ChunkDecider,
    ChunkDecision,
    ChunkRequest,
    NotRecorded,
    Reply,
    ceiling_refusal,
    chunk_outcome,
    refuse_chunk,
    refused_outcome,
)
from worker.rules.fingerprints import (
    BATCH_CLOSED,
    BATCH_CONFLICT,
    BatchHistory,
    RecordedBatch,
    salted_fingerprint,
)
from worker.rules.policy_rules import RequestContext
from worker.rules.quota_rules import NO_COST, Cost, admit_cost
from worker.rules.tenant_config import Tenant, TenantConfig

# While a decision is written, the batch can be closed, and then this very chunk be committed.
_MAX_CONCURRENT_CHANGES = 2


class ConcurrentChange(Exception):
    """Another process committed a change that affects the decision. Try again."""


class _Committed(NamedTuple):
    """A decision as committed; None if an earlier message committed the chunk in the batch."""

    decision: ChunkDecision | None
    batch_number: int = 0


def respond_to_request(
    message: ChunkMessage, sender: AuthenticatedMessage, config: TenantConfig, context: Context
) -> Reply:
    """Decide on a chunk of a request. Raises Transient."""
    return issue_chunk(ChunkRequest(message, sender.tenant, sender.signing_key), config, context)


def issue_chunk(request: ChunkRequest, config: TenantConfig, context: Context) -> Reply:
    """Decide on a chunk and return its outcome: grants, or a refusal.

    config is the one that authenticated the message. Raises Transient if the database, credentials
    or storage are unreachable; the same message, sent again, then gets what was committed, if any.
    """
    message = request.message
    with stage("decide"):
        admitted = admit(message, request.tenant, config, context.now())
    if isinstance(admitted, Refusal):
        committed = _commit_or_reissue(request, admitted, context)
    elif isinstance(admitted.terms, Multipart):
        committed = _issue_uploads(request, admitted, admitted.terms, context)
    else:
        committed = _commit_or_reissue(request, _sign(admitted, None, context), context)
    has_manifest = message.manifest is not None
    return chunk_outcome(message.batch, message.chunk, committed, has_manifest=has_manifest)


def _issue_uploads(
    request: ChunkRequest, admitted: RequestContext, terms: Multipart, context: Context
) -> ChunkDecision:
    """Start multipart uploads and issue their grants; abort them unless they are recorded."""
    starter, is_used = UploadStarter(admitted, terms, context), False
    try:
        committed = _commit_or_reissue(request, _sign(admitted, starter, context), context)
        is_used = committed.attempt == starter.attempt
    finally:
        if not is_used:
            starter.abort()
    return committed


def _sign(
    admitted: RequestContext, starter: UploadStarter | None, context: Context
) -> ChunkDecision | Refusal:
    with stage("sign"):
        return _decide(admitted, starter, context)


def _decide(
    admitted: RequestContext, starter: UploadStarter | None, context: Context
) -> ChunkDecision | Refusal:
    message, upload = admitted.message, None
    if isinstance(message.grant, Parts):
        upload = find_continued_upload(admitted.tenant.id, message.grant, context, admitted.now)
    if isinstance(upload, Refusal):
        return upload
    signing = first_signing_context(admitted, upload, context.s3)
    if isinstance(signing, Refusal):
        return signing
    decider = ChunkDecider(admitted, signing)
    if starter is None:
        return decider.decide(message, continued_upload=upload)
    refusal = starter.start_all()
    return refusal or replace(decider.decide(message, starter.results), attempt=starter.attempt)


def _commit_or_reissue(
    request: ChunkRequest, decision: ChunkDecision | Refusal, context: Context
) -> ChunkDecision:
    """Commit a decision, or return the decision that was committed before it."""
    now = context.now()
    chunk = NewChunk.prepare(request, decision, now)
    try:
        committed = _write_with_retries(chunk, context)
    except NotRecorded as error:
        return _answer_unrecorded(chunk, error.decisions[request.message.batch], context)
    if committed.decision is not None:
        return committed.decision
    with autocommit_read(context.engine) as connection:
        quotas = quota_usage.read_quota_states(connection, request.tenant, now)
    recorded = read_recorded(committed.batch_number, request.message.chunk, context)
    return replace(reissue_chunk(recorded, context), quotas=quotas)


def _answer_unrecorded(chunk: NewChunk, decision: ChunkDecision, context: Context) -> ChunkDecision:
    """Count a message that is not recorded. Its refusals stay, and nothing is granted."""
    (message, tenant, *_), now = chunk.request, chunk.now
    # With a salt that is stored nowhere: the digest would confirm a guess of the message's texts.
    digest = salted_fingerprint(chunk.request_salt, chunk.header_fingerprint)
    with write_transaction(context.engine) as connection:
        count_rejections(connection, tenant.id, {NOT_RECORDED: [digest]}, now)
        quotas = quota_usage.read_quota_states(connection, tenant, now)
    if decision.issued:
        decision = refuse_chunk(message, ceiling_refusal(quota_usage.MAX_UNCHARGED_BYTES, now), now)
    return replace(decision, quotas=quotas, attempt=None)


@contextmanager
def _timed_transaction(context: Context) -> Iterator[Connection]:
    """Open a transaction whose statements and commit are traced as separate stages."""
    with stage("database") as current, write_transaction(context.engine) as connection:
        yield connection
        current.switch("commit")


def _write_with_retries(chunk: NewChunk, context: Context) -> _Committed:
    """Write a decision in one transaction: its rows, its cost, and what has to follow from it.

    The first chunk to arrive opens the batch: it charges for the whole batch, or the whole batch is
    refused. Returns the decision as committed; a message that contradicts what was committed under
    its batch id is refused, and not recorded. Raises NotRecorded.
    """
    for _ in range(_MAX_CONCURRENT_CHANGES):
        with suppress(ConcurrentChange, IntegrityError), _timed_transaction(context) as conn:
            return _write_decision(conn, chunk)
    with _timed_transaction(context) as conn:
        return _write_decision(conn, chunk)


def _write_decision(connection: Connection, chunk: NewChunk) -> _Committed:
    history = _locked_history(connection, chunk.request, chunk.now)
    if history.batch is None:
        new = chunk.refuse(BATCH_CLOSED) if history.is_cancelled else chunk
        return _Committed(_open_batches(connection, [new])[0])
    if history.conflicts_with(chunk.header_fingerprint, chunk.items_fingerprint):
        refused = refuse_chunk(chunk.request.message, BATCH_CONFLICT, chunk.now)
        quotas = quota_usage.read_quota_states(connection, chunk.request.tenant, chunk.now)
        return _Committed(replace(refused, quotas=quotas))
    if history.chunk is not None:
        return _Committed(None, history.batch.batch_number)
    chunk = chunk._replace(request_salt=history.batch.request_salt or chunk.request_salt)
    return _Committed(_continue_batch(connection, chunk, history.batch))


def _locked_history(connection: Connection, request: ChunkRequest, now: datetime) -> BatchHistory:
    message, tenant_id = request.message, request.tenant.id
    # Usually chunk 0 opens its batch, and every other chunk finds it open.
    if message.chunk == 0:
        lock_batches(connection, tenant_id, message.batch)
    history = read_history(connection, tenant_id, message.batch, message.chunk, now)
    if history.batch is None and message.chunk != 0:
        lock_batches(connection, tenant_id, message.batch)
        history = read_history(connection, tenant_id, message.batch, message.chunk, now)
    return history


def _open_batches(connection: Connection, chunks: Sequence[NewChunk]) -> list[ChunkDecision]:
    """Open batches of one tenant with their first chunks: charge for all of each, or refuse it.

    Returns the decisions, each with the quotas after it.
    Each one is admitted by what those before it left, as if it had a transaction of its own.
    """
    tenant, now = chunks[0].request.tenant, chunks[0].now
    costs = [chunk.opening_cost for chunk in chunks]
    # Charged before they are admitted, because the charge locks the usage rows.
    usage = quota_usage.charge(connection, tenant.id, reduce(Cost.plus, costs), now)
    unused, decided = NO_COST, list[NewChunk]()
    for chunk, cost in zip(chunks, costs, strict=True):
        before = usage
        refusal, quotas, usage = admit_cost(tenant, usage, cost, now)
        if refusal is not None:
            unused = unused.plus(cost)
        admitted = chunk if refusal is None else chunk.refuse(refusal)
        decision = replace(admitted.decision, quotas=quotas)
        decided.append(admitted._replace(decision=decision, charged=(before, usage)))
    quota_usage.release(connection, tenant.id, unused, now)
    insert_new_batches(connection, decided)
    return [chunk.decision for chunk in decided]


def _continue_batch(connection: Connection, chunk: NewChunk, batch: RecordedBatch) -> ChunkDecision:
    """Add a later chunk, which uses what the first chunk reserved for it."""
    request, now, number = chunk.request, chunk.now, batch.batch_number
    refusal = batch.later_refusal
    if refusal is not None:
        chunk = chunk.refuse(refusal)
    uncharged = admit_uncharged(connection, [chunk])
    (leaf,) = insert_chunks(connection, [InsertedBatch(number)], [chunk], batch.decided_at)
    # Last, because other chunks of the batch wait for this row from then on.
    if refusal is None and not take_from_remaining(connection, number, request):
        raise ConcurrentChange
    hooks.decided(connection, [chunk.inserted(number, opens_batch=False)], now)
    if refusal is None:
        quota_usage.release(connection, request.tenant.id, chunk.unused_cost, batch.decided_at)
    quota_usage.charge_uncharged(connection, request.tenant.id, uncharged, now)
    append_leaf(connection, request.tenant.id, leaf)
    quotas = quota_usage.read_quota_states(connection, request.tenant, now)
    return replace(chunk.decision, quotas=quotas)


_Decided = TypeVar("_Decided")
_MIN_TOGETHER = 2  # batches for which a common transaction is of use
_MAX_ALONE = 8  # they take as long as a chunk: a bundle has the turn of one message
_MAX_UNUSABLE_BUCKETS = 2  # each try may take ten seconds, and a task less than a minute
log = structlog.get_logger()


def issue_bundle(
    bundle: BundleMessage, sender: AuthenticatedMessage, config: TenantConfig, context: Context
) -> Reply:
    """Decide on each message of a bundle; the reply has their outcomes in order.

    Each outcome is that of the message alone. A message has none if it cannot be decided now, if it
    would take too long, or if an earlier one of its batch id has none. Its sender then sends it
    alone. Raises Transient if none can be decided, or if the database is unreachable.
    """
    tenant, signing_key = sender.tenant, sender.signing_key
    with stage("decide"):
        parsed = {
            n: require_features(parse_bundled(raw, tenant.name))
            for n, raw in enumerate(bundle.messages)
        }
    refusals = {n: message for n, message in parsed.items() if isinstance(message, Refusal)}
    requests = {
        n: ChunkRequest(message, tenant, signing_key)
        for n, message in parsed.items()
        if not isinstance(message, Refusal)
    }
    outcomes = _issue_together(requests, config, context)
    if refusals:
        outcomes |= _refuse_malformed(bundle, refusals, tenant, context)
    replies: list[Reply] = []
    silent: set[str] = set()
    for n, content in enumerate(bundle.messages):
        batch_id, _ = parse_claimed_chunk(content)
        if n not in outcomes:
            silent.add(batch_id)
        elif batch_id not in silent:  # else its sender would take it for that of the earlier one
            replies.append(outcomes[n])
    return Reply({"status": "bundled", "replies": [each.values for each in replies]}, parts=replies)


def _refuse_malformed(
    bundle: BundleMessage, refusals: Mapping[int, Refusal], tenant: Tenant, context: Context
) -> dict[int, Reply]:
    """Refuse and count the malformed messages, as they would be alone."""
    contents, now = bundle.messages, context.now()
    digests: defaultdict[str, list[bytes]] = defaultdict(list)
    for n, refusal in refusals.items():
        digests[refusal.code].append(message_digest(contents[n]))
    with write_transaction(context.engine) as connection:
        count_rejections(connection, tenant.id, digests, now)
        quotas = quota_usage.read_quota_states(connection, tenant, now)
    return {
        n: refused_outcome(*parse_claimed_chunk(contents[n]), refusal, quotas)
        for n, refusal in refusals.items()
    }


def _issue_together(
    requests: Mapping[int, ChunkRequest], config: TenantConfig, context: Context
) -> dict[int, Reply]:
    attempt = _BundleAttempt(config, context)
    with stage("sign"):
        chunks = {n: attempt.prepare(request) for n, request in requests.items()}
    committed = _commit_together({n: chunk for n, chunk in chunks.items() if chunk}, context)
    outcomes: dict[int, Reply] = {}
    for n, request in requests.items():
        decision = committed.get(n)
        if decision is None:
            outcome = attempt.issue_alone(request)
        else:
            outcome = chunk_outcome(request.message.batch, request.message.chunk, decision)
        if outcome is not None:
            outcomes[n] = outcome
    if attempt.problem is not None and not outcomes:
        raise attempt.problem
    return outcomes


class _BundleAttempt:
    """One attempt to decide on the messages of a bundle: no failure of one affects the others.

    problem is the last failure that may pass by itself.
    """

    def __init__(self, config: TenantConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._now = context.now()
        self._unusable_buckets: set[str] = set()  # not tried again
        self._decided_alone = 0
        self._decider: tuple[object, ChunkDecider] | None = None  # with what it depends on
        self.problem: Transient | None = None

    def prepare(self, request: ChunkRequest) -> NewChunk | None:
        """Return the decision on a request, signed and ready to commit; None if there is none."""
        return self._try(request, self._prepare)

    def issue_alone(self, request: ChunkRequest) -> Reply | None:
        """Return the outcome of a request that cannot be committed with others, if there is one."""
        if self._decided_alone == _MAX_ALONE:
            return None
        self._decided_alone += 1
        return self._try(request, lambda each: issue_chunk(each, self._config, self._context))

    def _prepare(self, request: ChunkRequest) -> NewChunk:
        admitted = admit(request.message, request.tenant, self._config, self._now)
        decider = admitted if isinstance(admitted, Refusal) else self._find(admitted)
        if isinstance(decider, Refusal):
            return NewChunk.prepare(request, decider, self._now)
        return NewChunk.prepare(request, decider.decide(request.message), self._now)

    def _find(self, admitted: RequestContext) -> ChunkDecider | Refusal:
        """Return what signs an admitted request: most messages of a bundle have the same terms."""
        shared = admitted.terms, admitted.bucket, admitted.policy, admitted.validity
        if self._decider is None or self._decider[0] != shared:
            signing = first_signing_context(admitted, None, self._context.s3)
            if isinstance(signing, Refusal):
                return signing
            self._decider = shared, ChunkDecider(admitted, signing)
        return self._decider[1]

    def _try(
        self, request: ChunkRequest, decide_on: Callable[[ChunkRequest], _Decided]
    ) -> _Decided | None:
        message, unusable = request.message, self._unusable_buckets
        if message.grant.bucket in unusable or len(unusable) == _MAX_UNUSABLE_BUCKETS:
            return None
        try:
            return decide_on(request)
        except Transient as error:
            if error.part == "database":
                raise
            log.warning("bundled_message_left", batch=message.batch, problem=str(error))
            unusable.add(message.grant.bucket)
            self.problem = error
        except SoftTimeLimitExceeded:  # the time of the whole bundle
            raise
        except Exception:
            log.exception("issue_failed", batch=message.batch)
        return None


def _commit_together(chunks: Mapping[int, NewChunk], context: Context) -> dict[int, ChunkDecision]:
    """Commit new batches in one transaction; return the decisions as committed, by number.

    Batches that exist are left out, and all if the transaction fails because of one of them. Of
    messages with the same batch id, the first one is committed: the others are decided alone.
    """
    numbers: dict[str, int] = {}
    for n, chunk in chunks.items():
        numbers.setdefault(chunk.request.message.batch, n)
    if len(numbers) < _MIN_TOGETHER:
        return {}
    try:
        with _timed_transaction(context) as connection:
            decisions = _write_new(connection, {id_: chunks[n] for id_, n in numbers.items()})
    except NotRecorded as error:
        # They are refused alone, so that those that are charged stay together.
        charged = {n: chunks[n] for id_, n in numbers.items() if id_ not in error.decisions}
        return _commit_together(charged, context)
    except DBAPIError:
        return {}
    return {numbers[id_]: decision for id_, decision in decisions.items()}


def _write_new(connection: Connection, chunks: Mapping[str, NewChunk]) -> dict[str, ChunkDecision]:
    tenant = next(iter(chunks.values())).request.tenant
    lock_batches(connection, tenant.id, *chunks)
    known = known_batches(connection, tenant.id, list(chunks))
    new = [chunk for batch_id, chunk in chunks.items() if batch_id not in known]
    if not new:
        return {}
    decisions = _open_batches(connection, new)
    ids = (chunk.request.message.batch for chunk in new)
    return dict(zip(ids, decisions, strict=True))
