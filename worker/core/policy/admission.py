"""Admits a request, or refuses it, by its header: quotas and items are checked elsewhere."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple

from valetkey.units import describe_duration
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms
from worker.core.kinds.registry import adapt_terms_to_provider, grant_kind
from worker.core.kinds.rules import PolicyContext, RequestContext, Rule, first_refusal, refuse
from worker.core.policy.request_rules import REQUEST_RULES
from worker.core.tenants.config import Bucket, Policy, Tenant, TenantConfig


@dataclass(frozen=True, slots=True)
class Admission:
    """A request that policy allows: its terms, bucket profile, policy and validity in seconds.

    terms are the request's own, or those of a put if the provider accepts no forms.
    """

    terms: AnyTerms
    bucket: Bucket
    policy: Policy
    expires_in: int
    limited_by: Literal["request", "policy"]


class ExpiryLimit(NamedTuple):
    """The longest validity that policy allows a grant, in seconds, and what limits it."""

    expires_in: int
    limited_by: Literal["request", "policy"]


def admit(
    message: ChunkMessage, tenant: Tenant | None, config: TenantConfig, now: datetime
) -> Admission | Refusal:
    """Admit a request by its header, or refuse it for the first rule that it breaks.

    tenant is None if the config has no tenant of the message's name.
    """
    context = request_context(message, tenant, config, now)
    if isinstance(context, Refusal):
        return context
    refusal = first_refusal(request_rules(context), context)
    return refusal or _admission(context)


def request_context(
    message: ChunkMessage, tenant: Tenant | None, config: TenantConfig, now: datetime
) -> RequestContext | Refusal:
    """Find the bucket profile and policy of a request, or refuse it if the tenant has none.

    The answer is the same whether or not there is a bucket profile that other tenants use.
    """
    if tenant is None:
        return refuse(Code.TENANT_UNKNOWN, "tenant", "no such tenant is configured")
    name = message.grant.bucket
    policy = tenant.policies.get(name)
    if policy is None:
        text = "the tenant has no policy for a bucket profile of this name"
        allowed = sorted(tenant.policies)
        return refuse(Code.BUCKET_NOT_ALLOWED, "grant.bucket", text, allowed)
    return RequestContext(
        terms=message.grant,
        bucket=config.buckets[name],
        policy=policy,
        tenant=tenant,
        total=message.total,
        callback=message.callback,
        message=message,
        now=now,
    )


def request_rules(context: RequestContext) -> Iterator[Rule[RequestContext]]:
    """Yield the rules for a request's header and terms, in the order in which they apply."""
    yield from REQUEST_RULES
    yield from grant_kind(context.terms).rules


def _admission(context: RequestContext) -> Admission | Refusal:
    terms = _terms_for_provider(context)
    if isinstance(terms, Refusal):
        return terms
    limit = _expiry_limit(context)
    if isinstance(limit, Refusal):
        return limit
    return Admission(terms, context.bucket, context.policy, *limit)


def _terms_for_provider(context: PolicyContext) -> AnyTerms | Refusal:
    return adapt_terms_to_provider(context.terms, context.bucket, context.policy)


def _expiry_limit(context: RequestContext) -> ExpiryLimit | Refusal:
    terms, maximum = context.terms, context.policy.max_expires_in
    if terms.expires_in <= maximum:
        return ExpiryLimit(terms.expires_in, "request")
    if terms.min_expires_in is not None and terms.min_expires_in <= maximum:
        return ExpiryLimit(maximum, "policy")
    field = "grant.expires_in" if terms.min_expires_in is None else "grant.min_expires_in"
    text = f"longer than the tenant's policy allows: at most {describe_duration(maximum)}"
    return refuse(Code.EXPIRY_TOO_LONG, field, text, maximum)


def _refusal_or_none(value: object) -> Refusal | None:
    return value if isinstance(value, Refusal) else None


def _describe_provider(context: PolicyContext) -> str:
    terms = _terms_for_provider(context)
    is_replaced = not isinstance(terms, Refusal) and terms.kind != context.terms.kind
    return "a put, because this storage takes no forms" if is_replaced else ""


def _describe_expiry(context: RequestContext) -> str:
    maximum = describe_duration(context.policy.max_expires_in)
    return f"{describe_duration(context.terms.expires_in)} of at most {maximum}"


PROVIDER_RULE = Rule[PolicyContext](
    "provider",
    lambda context: _refusal_or_none(_terms_for_provider(context)),
    _describe_provider,
)

LIMIT_RULES: tuple[Rule[RequestContext], ...] = (
    PROVIDER_RULE,
    Rule(
        "grant.expires_in",
        lambda context: _refusal_or_none(_expiry_limit(context)),
        _describe_expiry,
    ),
)
"""The checks that `admit` makes after all rules, written as rules for explanations."""
