"""What would be decided on a message, rule by rule, by the rules that decide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from valetkey.wire.messages import ChunkMessage, Explanation, Verdict
from valetkey.wire.refusals import Refusal
from valetkey.wire.terms import AnyTerms
from worker.core.policy import items
from worker.core.policy.admission import RULES, Admission, request_context
from worker.core.policy.decisions import Validity
from worker.core.policy.history import BatchHistory
from worker.core.policy.items import ContinuedUpload
from worker.core.policy.rules import RequestContext
from worker.core.quotas.cost import (
    CEILINGS,
    NO_COST,
    Cost,
    UsageByWindow,
    effective_quotas,
    granted_cost,
    quota_refusal,
    quota_states,
    reserved_cost,
)
from worker.core.tenants.config import Policy, Tenant, TenantConfig

_FEW = 5  # refused items that are named; how many there are is always said


@dataclass(frozen=True, slots=True)
class ExplainContext:
    """A message, and all that it is held against.

    who says who asks. admitted is what policy makes of it; life what storage and credentials then
    leave of it, nothing where no credentials are in reach; upload what a request for parts goes on
    with.
    """

    message: ChunkMessage
    who: str
    declared: TenantConfig
    earlier: BatchHistory
    used: UsageByWindow
    admitted: Admission | Refusal
    life: Validity | Refusal | None
    upload: ContinuedUpload | Refusal | None
    now: datetime

    @property
    def terms(self) -> AnyTerms:
        """What would be signed, or is asked for where policy refuses it."""
        admitted = self.admitted
        return admitted.terms if isinstance(admitted, Admission) else self.message.grant


def explain(facts: ExplainContext) -> Explanation:
    """Hold a message against every rule, or say what was decided before where that counts."""
    return build_explanation(list(_verdicts(facts)))


def build_explanation(rules: Sequence[Verdict]) -> Explanation:
    """Sum up: what one rule refuses is refused."""
    refused = any(verdict.refusal is not None for verdict in rules)
    return Explanation(decision="refuse" if refused else "issue", rules=list(rules))


def _verdicts(facts: ExplainContext) -> Iterator[Verdict]:
    yield Verdict(rule="identity", found=facts.who)
    yield _batch(facts.earlier)
    if facts.earlier.settles:
        return
    case = request_context(facts.message, facts.declared, facts.now)
    if isinstance(case, Refusal):
        found = facts.message.tenant if case.field == "tenant" else facts.message.grant.bucket
        yield Verdict(rule=case.field, found=found, refusal=case)
        return
    yield Verdict(rule="tenant", found=case.tenant.name)
    yield Verdict(rule="grant.bucket", found=case.bucket.name)
    yield from _asked(case)
    yield from _lasting(facts)
    refusals = _of_items(facts, case.policy)
    yield _items(refusals)
    yield from _quotas(facts, case.tenant, refusals)


def _batch(earlier: BatchHistory) -> Verdict:
    found = "not seen before"
    if earlier.began_at is not None:
        found = f"began at {earlier.began_at:%Y-%m-%dT%H:%M:%SZ}"
    if earlier.decided_at is not None:
        found = f"decided at {earlier.decided_at:%Y-%m-%dT%H:%M:%SZ}: answered alike, not charged"
    return Verdict(rule="batch", found=found, refusal=earlier.refusal)


def _asked(case: RequestContext) -> Iterator[Verdict]:
    for rule in RULES:
        found, refusal = rule.found(case), rule.refused(case)
        if found or refusal is not None:
            yield Verdict(rule=rule.name, found=found, refusal=refusal)


def _lasting(facts: ExplainContext) -> Iterator[Verdict]:
    if isinstance(facts.upload, Refusal):
        yield Verdict(rule="grant.of", found="", refusal=facts.upload)
    elif isinstance(facts.life, Validity):
        text = f"{facts.life.expires_in:,} s, limited by the {facts.life.limited_by}"
        yield Verdict(rule="life", found=text)
    elif isinstance(facts.life, Refusal):
        yield Verdict(rule="life", found="", refusal=facts.life)
    elif isinstance(facts.admitted, Admission):
        yield Verdict(rule="life", found="not held against credentials, as there are none here")


def _of_items(facts: ExplainContext, policy: Policy) -> list[Refusal | None]:
    upload = None if isinstance(facts.upload, Refusal) else facts.upload
    return [
        items.item_refusal(item, facts.terms, policy, f"items[{number}]", upload)
        for number, item in enumerate(facts.message.items)
    ]


def _items(refusals: Sequence[Refusal | None]) -> Verdict:
    # Items are refused one by one and the others granted: nothing is where all of them are.
    refused = [refusal for refusal in refusals if refusal is not None]
    found = f"{len(refusals):,} in this chunk, {len(refused):,} of them refused"
    if refused:
        found += ": " + ", ".join(f"{one.field} {one.code}" for one in refused[:_FEW])
    if len(refused) > _FEW:
        found += f" and {len(refused) - _FEW:,} more"
    is_all = len(refused) == len(refusals)
    return Verdict(rule="items", found=found, refusal=refused[0] if is_all else None)


def _quotas(
    facts: ExplainContext, tenant: Tenant, refusals: Sequence[Refusal | None]
) -> Iterator[Verdict]:
    began = facts.earlier.began_at is not None
    cost = NO_COST if began else _cost(facts, refusals)
    for quota in (*effective_quotas(tenant, facts.now), *CEILINGS):
        refusal = quota_refusal([quota], facts.used, cost, facts.now)
        if quota in CEILINGS and refusal is None:
            continue  # nobody declared it
        (state,) = quota_states([quota], facts.used, facts.now)
        asked = getattr(cost, quota.metric)
        text = f"{state.used:,} of {state.limit:,} used, {asked:,} asked for, {state.left:,} left"
        yield Verdict(
            rule=f"quota {quota.metric}.{quota.window}",
            found="reserved when the batch began" if began else text,
            refusal=refusal,
        )


def _cost(facts: ExplainContext, refusals: Sequence[Refusal | None]) -> Cost:
    message = facts.message
    pairs = zip(message.items, refusals, strict=True)
    granted = [item for item, refusal in pairs if refusal is None]
    to_come = reserved_cost(message.grant, message.total - len(message.items))
    return granted_cost(facts.terms, granted).plus(to_come)
