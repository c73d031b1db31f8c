"""Decides whether today's policy still allows a committed chunk, before it is signed again."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from valetkey.units import describe_duration
from valetkey.wire.refusals import Code, Refusal
from worker.core.kinds.registry import adapt_terms_to_provider, grant_kind
from worker.core.kinds.rules import BatchContext, Rule, first_refusal, refuse
from worker.core.policy.admission import PROVIDER_RULE
from worker.core.policy.decisions import RecordedChunk
from worker.core.policy.request_rules import BATCH_RULES
from worker.core.tenants.config import TenantConfig

_NO_LONGER_ALLOWED = Refusal(
    code=Code.BUCKET_NOT_ALLOWED,
    field="grant.bucket",
    message="it was issued, but the tenant's policy no longer allows it",
)


@dataclass(frozen=True, slots=True)
class ReissueContext(BatchContext):
    """The batch of a committed chunk, and the time for which the chunk's grants are still valid."""

    remaining: timedelta


def admit_again(
    recorded: RecordedChunk, config: TenantConfig, now: datetime
) -> ReissueContext | Refusal:
    """Return the tenant, terms and policy to sign a committed chunk with, or today's refusal."""
    context = reissue_context(recorded, config, now)
    if isinstance(context, Refusal):
        return context
    refusal = first_refusal(reissue_rules(context), context)
    terms = refusal or adapt_terms_to_provider(context.terms, context.bucket, context.policy)
    if isinstance(terms, Refusal):
        return terms
    return replace(context, terms=terms)


def reissue_context(
    recorded: RecordedChunk, config: TenantConfig, now: datetime
) -> ReissueContext | Refusal:
    """Find today's bucket profile and policy of a committed chunk, or refuse it without them."""
    access = config.find_access(recorded.tenant_id, recorded.terms.bucket)
    if access is None:
        return _NO_LONGER_ALLOWED
    return ReissueContext(
        terms=recorded.terms,
        bucket=access.bucket,
        policy=access.policy,
        tenant=access.tenant,
        total=recorded.total,
        callback=recorded.callback,
        remaining=recorded.validity.remaining(now),
    )


def reissue_rules(context: ReissueContext) -> Iterator[Rule[ReissueContext]]:
    """Yield the rules for signing a chunk again, in the order in which they apply.

    These are the rules of its request that depend on the policy. The deadline belongs to the
    request, which met it, so it does not apply again. The rule for a manifest applies when the
    manifest is written.
    """
    yield from BATCH_RULES
    yield from grant_kind(context.terms).rules
    yield PROVIDER_RULE
    yield _REMAINING_RULE


def _check_remaining(context: ReissueContext) -> Refusal | None:
    maximum = context.policy.max_expires_in
    if context.remaining <= timedelta(seconds=maximum):
        return None
    text = (
        "it is still valid for longer than the tenant's policy now allows: at most "
        f"{describe_duration(maximum)}"
    )
    return refuse(Code.EXPIRY_TOO_LONG, "grant.expires_in", text, maximum)


def _describe_remaining(context: ReissueContext) -> str:
    remaining = describe_duration(int(context.remaining.total_seconds()))
    return f"{remaining} left of at most {describe_duration(context.policy.max_expires_in)}"


_REMAINING_RULE = Rule[ReissueContext]("grant.expires_in", _check_remaining, _describe_remaining)
