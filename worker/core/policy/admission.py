"""Whether a batch may be granted: its message held against what its tenant was allowed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms
from worker.core.policy import grant_rules, request_rules
from worker.core.policy.provider_fallback import terms_for_provider
from worker.core.policy.rules import RequestContext, Rule, first_refusal, refuse
from worker.core.tenants.config import Bucket, Policy, TenantConfig

_ASKED: tuple[Rule[RequestContext], ...] = (*request_rules.RULES, *grant_rules.RULES)


@dataclass(frozen=True, slots=True)
class Admission:
    """A batch that policy allows: what is signed, where, and for how many seconds.

    terms are the batch's own, but for a form where the provider takes none.
    """

    terms: AnyTerms
    bucket: Bucket
    policy: Policy
    expires_in: int
    limited_by: Literal["request", "policy"]


class ExpiryLimit(NamedTuple):
    """For how many seconds policy lets a grant live, and what limits that."""

    expires_in: int
    limited_by: Literal["request", "policy"]


def admit(message: ChunkMessage, declared: TenantConfig, now: datetime) -> Admission | Refusal:
    """Decide on a batch by its header alone; keys and quotas are decided elsewhere."""
    case = request_context(message, declared, now)
    if isinstance(case, Refusal):
        return case
    return first_refusal(_ASKED, case) or _admitted(case)


def request_context(
    message: ChunkMessage, declared: TenantConfig, now: datetime
) -> RequestContext | Refusal:
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
    return RequestContext(message.grant, bucket, policy, message, tenant, now)


def _admitted(case: RequestContext) -> Admission | Refusal:
    terms = _offered(case)
    if isinstance(terms, Refusal):
        return terms
    lasting = _lasting(case)
    if isinstance(lasting, Refusal):
        return lasting
    return Admission(terms, case.bucket, case.policy, *lasting)


def _offered(case: RequestContext) -> AnyTerms | Refusal:
    return terms_for_provider(case.terms, case.bucket, case.policy.kinds)


def _lasting(case: RequestContext) -> ExpiryLimit | Refusal:
    terms, longest = case.terms, case.policy.max_expires_in
    if terms.expires_in <= longest:
        return ExpiryLimit(terms.expires_in, "request")
    if terms.min_expires_in is not None and terms.min_expires_in <= longest:
        return ExpiryLimit(longest, "policy")
    field = "grant.expires_in" if terms.min_expires_in is None else "grant.min_expires_in"
    return refuse(Code.EXPIRY_TOO_LONG, field, "longer than the policy allows", longest)


def _refusal(answer: object) -> Refusal | None:
    return answer if isinstance(answer, Refusal) else None


def _offered_found(case: RequestContext) -> str:
    terms = _offered(case)
    is_other = not isinstance(terms, Refusal) and terms.kind != case.terms.kind
    return "a put, as this storage takes no forms" if is_other else ""


def _lasting_found(case: RequestContext) -> str:
    return f"{case.terms.expires_in:,} s of at most {case.policy.max_expires_in:,} s"


RULES: tuple[Rule[RequestContext], ...] = (
    *_ASKED,
    Rule("provider", lambda case: _refusal(_offered(case)), _offered_found),
    Rule("grant.expires_in", lambda case: _refusal(_lasting(case)), _lasting_found),
)
"""Every question about a batch that has a place, in the order in which they are asked."""
