"""Whether a batch may be granted: its message held against what its tenant was allowed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from valetkey.messages import Message
from valetkey.refusals import Code, Refusal
from valetkey.terms import AnyTerms
from worker.core import conditions
from worker.core.offers import offered
from worker.core.tenancy import Bucket, Declared, Policy, Tenant

MOST_MULTIPARTS = 50  # in one request: each is a call to storage before anything is committed


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


def admit(message: Message, declared: Declared, now: datetime) -> Admitted | Refusal:
    """Decide on a batch by its header alone; keys and quotas are decided elsewhere."""
    tenant = declared.tenants.get(message.tenant)
    if tenant is None:
        return _refuse(Code.TENANT_UNKNOWN, "tenant", "no such tenant is declared")
    if message.grant.bucket not in declared.buckets:
        return _refuse(Code.BUCKET_UNKNOWN, "grant.bucket", "no such bucket profile is declared")
    policy = tenant.policies.get(message.grant.bucket)
    if policy is None:
        allowed = sorted(tenant.policies)
        return _refuse(Code.BUCKET_NOT_ALLOWED, "grant.bucket", "not one of the tenant's", allowed)
    bucket = declared.buckets[policy.bucket]
    owner_known = bucket.owner is not None
    refusal = _batch(message, tenant, now)
    refusal = refusal or conditions.refused(message.grant, policy, owner_known=owner_known)
    terms = refusal or offered(message.grant, bucket, policy.kinds)
    return terms if isinstance(terms, Refusal) else _life(terms, bucket, policy)


def _refuse(
    code: Code, field: str, message: str, limit: int | str | list[str] | None = None
) -> Refusal:
    return Refusal(code=code, field=field, message=message, limit=limit)


def _batch(message: Message, tenant: Tenant, now: datetime) -> Refusal | None:
    most = MOST_MULTIPARTS if message.grant.kind == "multipart" else tenant.max_batch
    if message.total > min(most, tenant.max_batch):
        text = "more items than may be asked for at once"
        return _refuse(Code.BATCH_TOO_LARGE, "total", text, min(most, tenant.max_batch))
    if message.callback is not None and message.callback not in tenant.endpoints:
        known = sorted(tenant.endpoints)
        return _refuse(Code.CALLBACK_UNKNOWN, "callback", "no such endpoint of the tenant", known)
    if message.deadline is not None and message.deadline <= now:
        text = "the answer would come too late"
        return _refuse(Code.DEADLINE_PASSED, "deadline", text, message.deadline.isoformat())
    return None


def _life(terms: AnyTerms, bucket: Bucket, policy: Policy) -> Admitted | Refusal:
    longest = policy.max_expires_in
    if terms.expires_in <= longest:
        return Admitted(terms, bucket, policy, terms.expires_in, "request")
    if terms.min_expires_in is not None and terms.min_expires_in <= longest:
        return Admitted(terms, bucket, policy, longest, "policy")
    field = "grant.expires_in" if terms.min_expires_in is None else "grant.min_expires_in"
    text = "longer than the policy allows"
    return _refuse(Code.EXPIRY_TOO_LONG, field, text, longest)
