"""Rules for the header of a request: batch size, webhooks, deadline and manifest."""

from collections.abc import Collection

from valetkey.wire.messages import ChunkMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import StorageTerms
from worker.core.kinds.registry import KINDS, grant_kind
from worker.core.kinds.rules import BatchContext, RequestContext, Rule, refuse
from worker.core.signing.object_keys import key_refusal, printable_key
from worker.core.tenants.config import Bucket, Policy, Tenant
from worker.core.uses.used_grant import SLOT_KINDS

_MANIFEST_KINDS = [name for name, kind in KINDS.items() if kind.has_manifest]
_MANIFEST_UPLOAD_KINDS = {name for name, kind in KINDS.items() if kind.allows_manifest_upload}


def allowed_callback_names(tenant: Tenant, bucket: str) -> Collection[str]:
    """Return the names of the endpoints that a request for a bucket profile may call back."""
    policy = tenant.policies.get(bucket)
    if policy is None or policy.callbacks is None:
        return tenant.endpoints.keys()
    return tenant.endpoints.keys() & policy.callbacks


def calls_back(tenant: Tenant, message: ChunkMessage) -> bool:
    """Return whether the outcome of a message is sent to an endpoint."""
    return message.callback in allowed_callback_names(tenant, message.grant.bucket)


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
