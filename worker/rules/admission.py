"""Admits a request, or refuses it, by its header: quotas and items are checked elsewhere."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import TypeVar

from valetkey.signing.object_keys import key_refusal, printable_key
from valetkey.signing.signing_context import Validity
from valetkey.units import describe_duration
from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import StorageTerms
from worker.rules.grant_kinds import KINDS, adapt_terms_to_provider, grant_kind
from worker.rules.issued_grants import SLOT_KINDS
from worker.rules.policy_rules import (
    BatchContext,
    PolicyContext,
    RequestContext,
    Rule,
    first_refusal,
    refuse,
)
from worker.rules.tenant_config import Bucket, Policy, Tenant, TenantConfig

B = TypeVar("B", bound=BatchContext)
_MANIFEST_KINDS = [name for name, kind in KINDS.items() if kind.has_manifest]
_MANIFEST_UPLOAD_KINDS = {name for name, kind in KINDS.items() if kind.allows_manifest_upload}


def allowed_callback_names(tenant: Tenant, bucket: str) -> Collection[str]:
    """Return the names of the endpoints that a request for a bucket profile may call back."""
    policy = tenant.policies.get(bucket)
    if policy is None or policy.callbacks is None:
        return tenant.endpoints.keys()
    return tenant.endpoints.keys() & policy.callbacks


def _max_items(context: BatchContext) -> int:
    policy_limit = context.policy.max_batch
    limit = context.tenant.max_batch if policy_limit is None else policy_limit
    kind_limit = grant_kind(context.terms).max_items
    return limit if kind_limit is None else min(limit, kind_limit)


def _check_total(context: BatchContext) -> Refusal | None:
    limit = _max_items(context)
    if context.total <= limit:
        return None
    return refuse(Code.BATCH_TOO_LARGE, "total", "the batch has too many items", limit)


def _check_callback(context: BatchContext) -> Refusal | None:
    allowed = allowed_callback_names(context.tenant, context.policy.bucket)
    if context.callback is None or context.callback in allowed:
        return None
    text = "the tenant has no such endpoint, or its policy does not allow it here"
    return refuse(Code.CALLBACK_UNKNOWN, "callback", text, sorted(allowed))


def _check_notify(context: RequestContext) -> Refusal | None:
    if context.message.notify is None:
        return None
    if not isinstance(context.terms, StorageTerms):
        text = "grants of this kind store no objects"
        return refuse(Code.NOTIFY_NOT_ALLOWED, "notify", text, list(SLOT_KINDS))
    if context.callback is None:
        text = "there is no endpoint to notify: name one in callback"
        allowed = allowed_callback_names(context.tenant, context.policy.bucket)
        return refuse(Code.NOTIFY_NOT_ALLOWED, "notify", text, sorted(allowed))
    return None


def _check_deadline(context: RequestContext) -> Refusal | None:
    deadline = context.message.deadline
    if deadline is None or deadline > context.now:
        return None
    text = "the deadline has passed"
    return refuse(Code.DEADLINE_PASSED, "deadline", text, deadline.isoformat())


def _check_manifest(context: RequestContext) -> Refusal | None:
    message = context.message
    if message.manifest is None:
        return None
    if not grant_kind(context.terms).has_manifest:
        text = "only batches of these kinds can have a manifest"
        return refuse(Code.MANIFEST_NOT_ALLOWED, "manifest", text, _MANIFEST_KINDS)
    return manifest_refusal(message.manifest, context.policy, context.bucket)


def manifest_refusal(manifest: str, policy: Policy, bucket: Bucket) -> Refusal | None:
    """Refuse a manifest if the policy allows no kind that stores objects, or not its object key.

    It is also refused if it must not replace an object, and storage would replace it.
    """
    if not _MANIFEST_UPLOAD_KINDS & set(policy.kinds):
        text = "the tenant's policy does not allow it to store objects in this bucket profile"
        return refuse(Code.MANIFEST_NOT_ALLOWED, "manifest", text, sorted(_MANIFEST_UPLOAD_KINDS))
    if not (bucket.conditional_writes or may_overwrite_manifest(policy)):
        text = "this storage replaces existing objects, and the policy does not allow that"
        return refuse(Code.MANIFEST_NOT_ALLOWED, "manifest", text)
    refusal = key_refusal(manifest, policy.prefixes, "manifest")
    return refusal and refusal.model_copy(update={"key": None})  # no item has this key


def may_overwrite_manifest(policy: Policy) -> bool:
    """Return true if the policy allows `upload`, or sets overwrite."""
    return "upload" in policy.kinds or policy.overwrite


def _describe_total(context: BatchContext) -> str:
    return f"{context.total:,} of at most {_max_items(context):,}"


def _describe_deadline(context: RequestContext) -> str:
    return "" if context.message.deadline is None else context.message.deadline.isoformat()


BATCH_RULES: tuple[Rule[BatchContext], ...] = (
    Rule("total", _check_total, _describe_total),
    Rule("callback", _check_callback, lambda context: context.callback or ""),
)
"""The rules of a batch that apply to its request, and again when its grants are signed again."""

REQUEST_RULES: tuple[Rule[RequestContext], ...] = (
    *BATCH_RULES,
    Rule("notify", _check_notify, lambda context: ", ".join(context.message.notify or ())),
    Rule("deadline", _check_deadline, _describe_deadline),
    Rule(
        "manifest", _check_manifest, lambda context: printable_key(context.message.manifest or "")
    ),
)
"""The rules of every request's header, in the order in which they apply."""


def admit(
    message: ChunkMessage, tenant: Tenant | None, config: TenantConfig, now: datetime
) -> RequestContext | Refusal:
    """Admit a request by its header, or refuse it for the first rule that it breaks.

    tenant is None if the config has no tenant of the message's name.
    """
    context = request_context(message, tenant, config, now)
    return context if isinstance(context, Refusal) else apply_rules(request_rules(context), context)


def apply_rules(rules: Iterable[Rule[B]], context: B) -> B | Refusal:
    """Return a batch that keeps the rules, with the terms to sign, or refuse it for the first one.

    The terms are those of the batch, or those of a put if the provider accepts no forms.
    """
    refusal = first_refusal(rules, context)
    terms = refusal or adapt_terms_to_provider(context.terms, context.bucket, context.policy)
    return terms if isinstance(terms, Refusal) else replace(context, terms=terms)


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
    validity = Validity(now.replace(microsecond=0), message.grant.expires_in, "request")
    return RequestContext(
        terms=message.grant,
        bucket=config.buckets[name],
        policy=policy,
        tenant=tenant,
        total=message.total,
        callback=message.callback,
        validity=validity.limit_to(policy.max_expires_in, "policy"),
        now=now,
        message=message,
    )


def request_rules(context: RequestContext) -> Iterator[Rule[RequestContext]]:
    """Yield the rules for a request's header and terms, in the order in which they apply."""
    yield from REQUEST_RULES
    yield from grant_kind(context.terms).rules
    yield PROVIDER_RULE
    yield _EXPIRY_RULE


def _check_provider(context: PolicyContext) -> Refusal | None:
    terms = adapt_terms_to_provider(context.terms, context.bucket, context.policy)
    return terms if isinstance(terms, Refusal) else None


def _describe_provider(context: PolicyContext) -> str:
    terms = adapt_terms_to_provider(context.terms, context.bucket, context.policy)
    is_replaced = not isinstance(terms, Refusal) and terms.kind != context.terms.kind
    return "a put, because this storage takes no forms" if is_replaced else ""


def _check_expiry(context: RequestContext) -> Refusal | None:
    terms, maximum = context.terms, context.policy.max_expires_in
    field = "expires_in" if terms.min_expires_in is None else "min_expires_in"
    if getattr(terms, field) <= maximum:
        return None
    text = f"longer than the tenant's policy allows: at most {describe_duration(maximum)}"
    return refuse(Code.EXPIRY_TOO_LONG, f"grant.{field}", text, maximum)


def _describe_expiry(context: RequestContext) -> str:
    maximum = describe_duration(context.policy.max_expires_in)
    return f"{describe_duration(context.terms.expires_in)} of at most {maximum}"


PROVIDER_RULE = Rule[PolicyContext]("provider", _check_provider, _describe_provider)
_EXPIRY_RULE = Rule[RequestContext]("grant.expires_in", _check_expiry, _describe_expiry)
