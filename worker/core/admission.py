"""Whether a batch may be granted: its message held against what its tenant was allowed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from valetkey.messages import Message
from valetkey.refusals import Code, Refusal
from valetkey.terms import AnyTerms
from worker.core import conditions, headers
from worker.core.offers import offered
from worker.core.rules import Case, Rule, first, refuse
from worker.core.tenancy import Bucket, Declared, Policy

_ASKED: tuple[Rule[Case], ...] = (*headers.RULES, *conditions.RULES)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A batch that policy allows: what is signed, where, and for how many seconds.

    terms are the batch's own, but for a form where the provider takes none.
    """

    terms: AnyTerms
    bucket: Bucket
    policy: Policy
    expires_in: int
    limited_by: Literal["request", "policy"]


class Lasting(NamedTuple):
    """For how many seconds policy lets a grant live, and what limits that."""

    expires_in: int
    limited_by: Literal["request", "policy"]


def admit(message: Message, declared: Declared, now: datetime) -> Admitted | Refusal:
    """Decide on a batch by its header alone; keys and quotas are decided elsewhere."""
    case = placed(message, declared, now)
    if isinstance(case, Refusal):
        return case
    return first(_ASKED, case) or _admitted(case)


def placed(message: Message, declared: Declared, now: datetime) -> Case | Refusal:
    """Find what a batch is held against, or refuse what has no place here."""
    tenant = declared.tenants.get(message.tenant)
    if tenant is None:
        return refuse(Code.TENANT_UNKNOWN, "tenant", "no such tenant is declared")
    name = message.grant.bucket
    if name not in declared.buckets:
        return refuse(Code.BUCKET_UNKNOWN, "grant.bucket", "no such bucket profile is declared")
    policy = tenant.policies.get(name)
    if policy is None:
        allowed = sorted(tenant.policies)
        return refuse(Code.BUCKET_NOT_ALLOWED, "grant.bucket", "not one of the tenant's", allowed)
    bucket = declared.buckets[name]
    return Case(message.grant, bucket, policy, message, tenant, now)


def _admitted(case: Case) -> Admitted | Refusal:
    terms = _offered(case)
    if isinstance(terms, Refusal):
        return terms
    lasting = _lasting(case)
    if isinstance(lasting, Refusal):
        return lasting
    return Admitted(terms, case.bucket, case.policy, *lasting)


def _offered(case: Case) -> AnyTerms | Refusal:
    return offered(case.terms, case.bucket, case.policy.kinds)


def _lasting(case: Case) -> Lasting | Refusal:
    terms, longest = case.terms, case.policy.max_expires_in
    if terms.expires_in <= longest:
        return Lasting(terms.expires_in, "request")
    if terms.min_expires_in is not None and terms.min_expires_in <= longest:
        return Lasting(longest, "policy")
    field = "grant.expires_in" if terms.min_expires_in is None else "grant.min_expires_in"
    return refuse(Code.EXPIRY_TOO_LONG, field, "longer than the policy allows", longest)


def _refusal(answer: object) -> Refusal | None:
    return answer if isinstance(answer, Refusal) else None


def _offered_found(case: Case) -> str:
    terms = _offered(case)
    is_other = not isinstance(terms, Refusal) and terms.kind != case.terms.kind
    return "a put, as this storage takes no forms" if is_other else ""


def _lasting_found(case: Case) -> str:
    return f"{case.terms.expires_in:,} s of at most {case.policy.max_expires_in:,} s"


RULES: tuple[Rule[Case], ...] = (
    *_ASKED,
    Rule("provider", lambda case: _refusal(_offered(case)), _offered_found),
    Rule("grant.expires_in", lambda case: _refusal(_lasting(case)), _lasting_found),
)
"""Every question about a batch that has a place, in the order in which they are asked."""
