"""What would be decided on a message, rule by rule, by the rules that decide."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from valetkey.messages import Explanation, Message, Verdict
from valetkey.refusals import Refusal
from valetkey.terms import AnyTerms
from worker.core import items, quotas
from worker.core.admission import RULES, Admitted, placed
from worker.core.decisions import Life
from worker.core.earlier import Earlier
from worker.core.items import Continued
from worker.core.quotas import Cost, Used
from worker.core.rules import Case
from worker.core.tenancy import Declared, Policy, Tenant

_FEW = 5  # refused items that are named; how many there are is always said


@dataclass(frozen=True, slots=True)
class Facts:
    """A message, and all that it is held against.

    who says who asks. admitted is what policy makes of it; life what storage and credentials then
    leave of it, nothing where no credentials are in reach; upload what a request for parts goes on
    with.
    """

    message: Message
    who: str
    declared: Declared
    earlier: Earlier
    used: Used
    admitted: Admitted | Refusal
    life: Life | Refusal | None
    upload: Continued | Refusal | None
    now: datetime

    @property
    def terms(self) -> AnyTerms:
        """What would be signed, or is asked for where policy refuses it."""
        admitted = self.admitted
        return admitted.terms if isinstance(admitted, Admitted) else self.message.grant


def explain(facts: Facts) -> Explanation:
    """Hold a message against every rule, or say what was decided before where that counts."""
    return explained(list(_verdicts(facts)))


def explained(rules: Sequence[Verdict]) -> Explanation:
    """Sum up: what one rule refuses is refused."""
    refused = any(verdict.refusal is not None for verdict in rules)
    return Explanation(decision="refuse" if refused else "issue", rules=list(rules))


def _verdicts(facts: Facts) -> Iterator[Verdict]:
    yield Verdict(rule="identity", found=facts.who)
    yield _batch(facts.earlier)
    if facts.earlier.settles:
        return
    case = placed(facts.message, facts.declared, facts.now)
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


def _batch(earlier: Earlier) -> Verdict:
    found = "not seen before"
    if earlier.began_at is not None:
        found = f"began at {earlier.began_at:%Y-%m-%dT%H:%M:%SZ}"
    if earlier.decided_at is not None:
        found = f"decided at {earlier.decided_at:%Y-%m-%dT%H:%M:%SZ}: answered alike, not charged"
    return Verdict(rule="batch", found=found, refusal=earlier.refusal)


def _asked(case: Case) -> Iterator[Verdict]:
    for rule in RULES:
        found, refusal = rule.found(case), rule.refused(case)
        if found or refusal is not None:
            yield Verdict(rule=rule.name, found=found, refusal=refusal)


def _lasting(facts: Facts) -> Iterator[Verdict]:
    if isinstance(facts.upload, Refusal):
        yield Verdict(rule="grant.of", found="", refusal=facts.upload)
    elif isinstance(facts.life, Life):
        text = f"{facts.life.expires_in:,} s, limited by the {facts.life.limited_by}"
        yield Verdict(rule="life", found=text)
    elif isinstance(facts.life, Refusal):
        yield Verdict(rule="life", found="", refusal=facts.life)
    elif isinstance(facts.admitted, Admitted):
        yield Verdict(rule="life", found="not held against credentials, as there are none here")


def _of_items(facts: Facts, policy: Policy) -> list[Refusal | None]:
    upload = None if isinstance(facts.upload, Refusal) else facts.upload
    return [
        items.refused(item, facts.terms, policy, f"items[{number}]", upload)
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


def _quotas(facts: Facts, tenant: Tenant, refusals: Sequence[Refusal | None]) -> Iterator[Verdict]:
    began = facts.earlier.began_at is not None
    cost = quotas.NOTHING if began else _cost(facts, refusals)
    for quota in (*quotas.effective(tenant, facts.now), *quotas.CEILINGS):
        refusal = quotas.refused([quota], facts.used, cost, facts.now)
        if quota in quotas.CEILINGS and refusal is None:
            continue  # nobody declared it
        (state,) = quotas.states([quota], facts.used, facts.now)
        asked = getattr(cost, quota.metric)
        text = f"{state.used:,} of {state.limit:,} used, {asked:,} asked for, {state.left:,} left"
        yield Verdict(
            rule=f"quota {quota.metric}.{quota.window}",
            found="reserved when the batch began" if began else text,
            refusal=refusal,
        )


def _cost(facts: Facts, refusals: Sequence[Refusal | None]) -> Cost:
    message = facts.message
    pairs = zip(message.items, refusals, strict=True)
    granted = [item for item, refusal in pairs if refusal is None]
    to_come = quotas.reserve(message.grant, message.total - len(message.items))
    return quotas.price(facts.terms, granted).plus(to_come)
