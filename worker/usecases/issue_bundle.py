"""Issues the grants of a bundle: small requests, decided in one transaction if possible."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from typing import Any, TypeVar

import structlog
from celery.exceptions import SoftTimeLimitExceeded
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from valetkey.wire.bundles import BundleMessage
from valetkey.wire.parsing import parse_bundled
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import Outcome
from worker.context import Context
from worker.core.auth.claimed_chunk import message_digest, parse_claimed_chunk
from worker.core.policy.admission import Admission, admit
from worker.core.policy.decide import ChunkDecider, start_no_upload
from worker.core.policy.decisions import ChunkDecision, ChunkRequest, chunk_outcome, refuse_chunk
from worker.core.policy.uncharged import NotRecorded
from worker.core.quotas.admission import admit_cost
from worker.core.quotas.cost import NO_COST, Cost, add_to_usage
from worker.core.tenants.config import Tenant, TenantConfig
from worker.db import usage
from worker.db.batches import NewChunk
from worker.db.engine import autocommit_read, write_transaction
from worker.db.rejections import count_rejections
from worker.db.statements.bundles import insert_new_batches, known_batches, lock_batches
from worker.errors import Transient
from worker.usecases.issue import issue_chunk
from worker.usecases.signing_context import first_signing_context

_Numbered = dict[int, dict[str, Any]]
"""Outcomes by the number of their message in the bundle."""

_Decided = TypeVar("_Decided")
_MIN_TOGETHER = 2  # batches for which a common transaction is of use
_MAX_ALONE = 8  # they take as long as a chunk: a bundle has the turn of one message
_MAX_UNUSABLE_BUCKETS = 2  # each try may take ten seconds, and a task less than a minute
log = structlog.get_logger()


def issue_bundle(
    bundle: BundleMessage,
    tenant: Tenant,
    signing_key: str | None,
    config: TenantConfig,
    context: Context,
) -> list[dict[str, Any]]:
    """Decide on each message of a bundle, and return their outcomes in order.

    Each outcome is that of the message alone. A message has none if it cannot be decided at the
    moment, or would take too long: its sender sends it alone. Raises Transient if none can be
    decided, or if the database is unreachable.
    """
    parsed = dict(enumerate(parse_bundled(raw, tenant.name) for raw in bundle.messages))
    refusals = {n: message for n, message in parsed.items() if isinstance(message, Refusal)}
    requests = {
        n: ChunkRequest(message, tenant, signing_key)
        for n, message in parsed.items()
        if not isinstance(message, Refusal)
    }
    outcomes = _issue(requests, config, context)
    if refusals:
        outcomes |= _refuse(bundle, refusals, tenant, context)
    return [outcomes[n] for n in sorted(outcomes)]


def _refuse(
    bundle: BundleMessage, refusals: Mapping[int, Refusal], tenant: Tenant, context: Context
) -> _Numbered:
    """Refuse and count the malformed messages, as they would be alone."""
    contents, now = bundle.messages, context.now()
    digests: defaultdict[str, list[bytes]] = defaultdict(list)
    for n, refusal in refusals.items():
        digests[refusal.code].append(message_digest(contents[n]))
    with write_transaction(context.engine) as connection:
        count_rejections(connection, tenant.id, digests, now)
    with autocommit_read(context.engine) as connection:
        quotas = usage.read_quota_states(connection, tenant, now)
    return {n: _refused_outcome(contents[n], refusal, quotas) for n, refusal in refusals.items()}


def _refused_outcome(content: Any, refusal: Refusal, quotas: list[QuotaState]) -> dict[str, Any]:
    claimed = parse_claimed_chunk(content)._asdict()
    outcome = Outcome(**claimed, status="refused", refusal=refusal, quotas=quotas)
    return outcome.model_dump(mode="json", exclude_none=True)


def _issue(
    requests: Mapping[int, ChunkRequest], config: TenantConfig, context: Context
) -> _Numbered:
    attempt = _Attempt(config, context)
    chunks = {n: attempt.prepare(request) for n, request in requests.items()}
    committed = _commit_together([chunk for chunk in chunks.values() if chunk], context)
    outcomes: _Numbered = {}
    for n, request in requests.items():
        # Taken out, because another message with the same batch id is decided alone.
        decision = committed.pop(request.message.batch, None)
        if decision is None:
            outcome = attempt.issue_alone(request)
        else:
            outcome = chunk_outcome(request.message.batch, request.message.chunk, decision)
        if outcome is not None:
            outcomes[n] = outcome
    if attempt.problem is not None and not outcomes:
        raise attempt.problem
    return outcomes


class _Attempt:
    """One attempt to decide on the messages of a bundle: no failure of one affects the others.

    problem is the last failure that may pass by itself.
    """

    def __init__(self, config: TenantConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._now = context.now()
        self._unusable_buckets: set[str] = set()  # not tried again
        self._decided_alone = 0
        self._decider: ChunkDecider | None = None
        self.problem: Transient | None = None

    def prepare(self, request: ChunkRequest) -> NewChunk | None:
        """Return the decision on a request, signed and ready to commit; None if there is none."""
        return self._try(request, self._prepare)

    def issue_alone(self, request: ChunkRequest) -> dict[str, Any] | None:
        """Return the outcome of a request that cannot be committed with others, if there is one."""
        if self._decided_alone == _MAX_ALONE:
            return None
        self._decided_alone += 1
        return self._try(request, lambda each: issue_chunk(each, self._config, self._context))

    def _prepare(self, request: ChunkRequest) -> NewChunk:
        message, now = request.message, self._now
        admission = admit(message, request.tenant, self._config, now)
        decider = admission if isinstance(admission, Refusal) else self._find(request, admission)
        if isinstance(decider, Refusal):
            return NewChunk.prepare(request, refuse_chunk(message, decider, now), now)
        return NewChunk.prepare(request, decider.decide(message, start_no_upload), now)

    def _find(self, request: ChunkRequest, admission: Admission) -> ChunkDecider | Refusal:
        """Return what signs an admitted request: most messages of a bundle have the same terms."""
        if self._decider is None or self._decider.admission != admission:
            signing = first_signing_context(request, admission, None, self._context.s3, self._now)
            if isinstance(signing, Refusal):
                return signing
            self._decider = ChunkDecider(admission, signing)
        return self._decider

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


def _commit_together(chunks: Sequence[NewChunk], context: Context) -> dict[str, ChunkDecision]:
    """Commit new batches in one transaction; return the decisions as committed, by batch id.

    Batches that exist are left out, and all if the transaction fails because of one of them.
    """
    by_id: dict[str, NewChunk] = {}
    for chunk in chunks:
        by_id.setdefault(chunk.request.message.batch, chunk)
    if len(by_id) < _MIN_TOGETHER:
        return {}
    try:
        with write_transaction(context.engine) as connection:
            return _write_new(connection, by_id)
    except NotRecorded as error:
        # They are refused alone, so that those that are charged stay together.
        charged = [chunk for id_, chunk in by_id.items() if id_ not in error.decisions]
        return _commit_together(charged, context)
    except DBAPIError:
        return {}


def _write_new(connection: Connection, chunks: Mapping[str, NewChunk]) -> dict[str, ChunkDecision]:
    tenant = next(iter(chunks.values())).request.tenant
    lock_batches(connection, tenant.id, chunks)
    known = known_batches(connection, tenant.id, list(chunks))
    new = [chunk for batch_id, chunk in chunks.items() if batch_id not in known]
    if not new:
        return {}
    decisions = _charge(connection, tenant, new)
    insert_new_batches(connection, new, decisions, new[0].now)
    ids = (chunk.request.message.batch for chunk in new)
    return dict(zip(ids, decisions, strict=True))


def _charge(
    connection: Connection, tenant: Tenant, chunks: Sequence[NewChunk]
) -> list[ChunkDecision]:
    """Charge for all chunks at once; return the decisions, each with the quotas after it.

    Each one is admitted by what those before it left, as if it had a transaction of its own.
    """
    now = chunks[0].now
    charged = reduce(Cost.plus, (chunk.decision.cost for chunk in chunks))
    # Charged before they are admitted, because the charge locks the usage rows.
    running, unused, decisions = usage.charge(connection, tenant.id, charged, now), NO_COST, []
    for chunk in chunks:
        decision, cost = chunk.decision, chunk.decision.cost
        admission = admit_cost(tenant, running, cost, now)
        if admission.refusal is None:
            running = add_to_usage(running, cost)
        else:
            unused = unused.plus(cost)
            decision = refuse_chunk(chunk.request.message, admission.refusal, now)
        decisions.append(replace(decision, quotas=admission.quotas))
    usage.release(connection, tenant.id, unused, now)
    return decisions
