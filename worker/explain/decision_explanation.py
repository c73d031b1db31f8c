"""Explains the decision on a message, rule by rule, with the rules that decide."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from valetkey.signing.signing_context import Validity
from valetkey.units import describe_amount, describe_duration
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Explanation, RuleVerdict
from valetkey.wire.terms import AnyTerms
from worker.rules.admission import request_context, request_rules
from worker.rules.decisions import (
    RecordedChunk,
    item_refusal,
    recorded_item,
    reissue_context,
    reissue_item_refusal,
    reissue_rules,
)
from worker.rules.fingerprints import BATCH_CONFLICT, BatchHistory
from worker.rules.grant_kinds import (
    ContinuedUpload,
    adapt_terms_to_provider,
    issued_cost,
    reserved_cost,
)
from worker.rules.policy_rules import PolicyContext, RequestContext, Rule
from worker.rules.quota_rules import (
    CEILINGS,
    NO_COST,
    UsageByWindow,
    effective_quotas,
    first_quota_refusal,
    quota_state,
)
from worker.rules.tenant_config import Tenant, TenantConfig

C = TypeVar("C", bound=PolicyContext)
_NO_HISTORY = BatchHistory()
_MAX_NAMED_ITEMS = 5  # refused items that are named; their number is always given


@dataclass(frozen=True, slots=True)
class ExplainContext:
    """A message, and everything that it is checked against.

    identity describes the sender. tenant is None if the config has no such tenant. recorded is the
    chunk if it was issued before, and so would be signed again. validity is the admitted one after
    the limits of provider and credentials, None without credentials. continued_upload is the upload
    whose parts are requested.
    """

    message: ChunkMessage
    identity: str
    tenant: Tenant | None
    config: TenantConfig
    now: datetime
    admitted: RequestContext | Refusal
    history: BatchHistory = _NO_HISTORY
    recorded: RecordedChunk | None = None
    usage: UsageByWindow = field(default_factory=dict)
    validity: Validity | Refusal | None = None
    continued_upload: ContinuedUpload | Refusal | None = None


def explain(context: ExplainContext) -> Explanation:
    """Explain the decision on a message rule by rule, or by the batch's history if that decides."""
    return build_explanation(_verdicts(context))


def build_explanation(verdicts: Iterable[RuleVerdict]) -> Explanation:
    """Sum up verdicts: one refusal refuses the message."""
    rules = list(verdicts)
    is_refused = any(verdict.refusal is not None for verdict in rules)
    return Explanation(decision="refuse" if is_refused else "issue", rules=rules)


def _verdicts(context: ExplainContext) -> Iterator[RuleVerdict]:
    yield RuleVerdict(rule="identity", found=context.identity)
    yield _batch_verdict(context)
    if context.recorded is not None:
        yield from _reissue_verdicts(context.recorded, context)
    if context.history.is_final_for(context.message):
        return
    request = request_context(context.message, context.tenant, context.config, context.now)
    if isinstance(request, Refusal):
        message = context.message
        value = message.tenant if request.field == "tenant" else message.grant.bucket
        yield RuleVerdict(rule=request.field, found=value, refusal=request)
        return
    yield RuleVerdict(rule="tenant", found=request.tenant.name)
    yield RuleVerdict(rule="grant.bucket", found=request.bucket.name)
    yield from _rule_verdicts(request_rules(request), request)
    yield from _validity_verdicts(context)
    # The terms to sign, or the requested ones if policy refuses them.
    admitted, upload = context.admitted, context.continued_upload
    terms = request.terms if isinstance(admitted, Refusal) else admitted.terms
    upload = None if isinstance(upload, Refusal) else upload
    refusals = [
        item_refusal(item, terms, request.policy, f"items[{index}]", upload)
        for index, item in enumerate(context.message.items)
    ]
    yield _items_verdict(refusals)
    yield from _quota_verdicts(context, request.tenant, terms, refusals)


def _batch_verdict(context: ExplainContext) -> RuleVerdict:
    history, refusal = context.history, context.history.refusal_of(context.message)
    text = "not seen before"
    if history.batch is not None:
        text = f"began at {history.batch.decided_at:%Y-%m-%dT%H:%M:%SZ}"
    if history.chunk is not None and refusal is not BATCH_CONFLICT:
        decided_at = f"{history.chunk.decided_at:%Y-%m-%dT%H:%M:%SZ}"
        text = f"decided at {decided_at}: not decided again, and nothing is charged"
    return RuleVerdict(rule="batch", found=text, refusal=refusal)


def _reissue_verdicts(recorded: RecordedChunk, context: ExplainContext) -> Iterator[RuleVerdict]:
    """Yield the verdicts of today's rules on a chunk that would be signed again."""
    reissue = reissue_context(recorded, context.config, context.now)
    if isinstance(reissue, Refusal):
        found = recorded.terms.bucket if recorded.rows else ""
        yield RuleVerdict(rule=reissue.field, found=found, refusal=reissue)
        return
    yield RuleVerdict(rule="grant.bucket", found=reissue.bucket.name)
    yield from _rule_verdicts(reissue_rules(reissue), reissue)
    terms = adapt_terms_to_provider(reissue.terms, reissue.bucket, reissue.policy)
    terms = reissue.terms if isinstance(terms, Refusal) else terms
    yield _items_verdict(
        [
            Refusal.model_validate(row.detail)
            if row.code is not None
            else reissue_item_refusal(recorded_item(row), terms, reissue.policy, f"items[{index}]")
            for index, row in enumerate(recorded.rows)
        ]
    )


def _rule_verdicts(rules: Iterable[Rule[C]], request: C) -> Iterator[RuleVerdict]:
    for rule in rules:
        value, refusal = rule.describe(request), rule.check(request)
        if value or refusal is not None:
            yield RuleVerdict(rule=rule.name, found=value, refusal=refusal)


def _validity_verdicts(context: ExplainContext) -> Iterator[RuleVerdict]:
    validity = context.validity
    if isinstance(context.continued_upload, Refusal):
        yield RuleVerdict(rule="grant.of", found="", refusal=context.continued_upload)
    elif isinstance(validity, Validity):
        text = f"{describe_duration(validity.expires_in)}, limited by the {validity.limited_by}"
        yield RuleVerdict(rule="validity", found=text)
    elif isinstance(validity, Refusal):
        yield RuleVerdict(rule="validity", found="", refusal=validity)
    elif not isinstance(context.admitted, Refusal):
        text = "not checked against credentials, because there are none here"
        yield RuleVerdict(rule="validity", found=text)


def _items_verdict(refusals: Sequence[Refusal | None]) -> RuleVerdict:
    # Items are refused one by one; the verdict refuses only if no item would be issued.
    refused = [refusal for refusal in refusals if refusal is not None]
    text = f"{len(refusals):,} in this chunk, {len(refused):,} of them refused"
    if refused:
        named = refused[:_MAX_NAMED_ITEMS]
        text += ": " + ", ".join(f"{refusal.field} {refusal.code}" for refusal in named)
    if len(refused) > _MAX_NAMED_ITEMS:
        text += f" and {len(refused) - _MAX_NAMED_ITEMS:,} more"
    is_none_issued = len(refused) == len(refusals)
    return RuleVerdict(rule="items", found=text, refusal=refused[0] if is_none_issued else None)


def _quota_verdicts(
    context: ExplainContext, tenant: Tenant, terms: AnyTerms, refusals: Sequence[Refusal | None]
) -> Iterator[RuleVerdict]:
    message, cost = context.message, NO_COST
    is_charged = context.history.batch is not None
    if not is_charged:
        pairs = zip(message.items, refusals, strict=True)
        issued = issued_cost(terms, [item for item, refusal in pairs if refusal is None])
        cost = issued.plus(reserved_cost(message.grant, message.total - len(message.items)))
    for quota in (*effective_quotas(tenant, context.now), *CEILINGS):
        refusal = first_quota_refusal([quota], context.usage, cost, context.now)
        if quota in CEILINGS and refusal is None:
            continue  # no configured quota, so users need to see it only if it refuses
        state = quota_state(quota, context.usage, context.now)
        numbers = (state.used, state.limit, getattr(cost, quota.metric), state.left)
        used, limit, amount, left = (describe_amount(quota.metric, number) for number in numbers)
        text = f"{used} of {limit} used, {amount} requested, {left} left"
        yield RuleVerdict(
            rule=f"quota {quota.metric}.{quota.window}",
            found="reserved when the batch began" if is_charged else text,
            refusal=refusal,
        )
