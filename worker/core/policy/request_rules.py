"""What a batch says of itself beside its terms, held against its tenant's limits."""

from collections.abc import Collection

from valetkey.wire.refusals import Code, Refusal
from worker.core.policy.rules import RequestContext, Rule, refuse
from worker.core.signing import object_keys
from worker.core.tenants.config import Policy, Tenant

_LISTED = ("download", "upload", "put")  # kinds that a manifest can be of: others are too few
_WRITING = {"upload", "put"}
MAX_MULTIPART_ITEMS = 50  # in one request: each is a call to storage before anything is committed


def allowed_callbacks(tenant: Tenant, bucket: str) -> Collection[str]:
    """Name the tenant's endpoints that may be told what is asked for in a bucket profile."""
    policy = tenant.policies.get(bucket)
    if policy is None or policy.callbacks is None:
        return tenant.endpoints.keys()
    return tenant.endpoints.keys() & policy.callbacks


def _most(case: RequestContext) -> int:
    own = case.policy.max_batch
    most = case.tenant.max_batch if own is None else own
    return min(most, MAX_MULTIPART_ITEMS) if case.terms.kind == "multipart" else most


def _total(case: RequestContext) -> Refusal | None:
    most = _most(case)
    if case.message.total <= most:
        return None
    text = "more items than may be asked for at once"
    return refuse(Code.BATCH_TOO_LARGE, "total", text, most)


def _callback(case: RequestContext) -> Refusal | None:
    known = allowed_callbacks(case.tenant, case.policy.bucket)
    if case.message.callback is None or case.message.callback in known:
        return None
    text = "no endpoint of the tenant that may be told of this"
    return refuse(Code.CALLBACK_UNKNOWN, "callback", text, sorted(known))


def _deadline(case: RequestContext) -> Refusal | None:
    deadline = case.message.deadline
    if deadline is None or deadline > case.now:
        return None
    text = "the answer would come too late"
    return refuse(Code.DEADLINE_PASSED, "deadline", text, deadline.isoformat())


def _manifest(case: RequestContext) -> Refusal | None:
    message = case.message
    if message.manifest is None:
        return None
    if case.terms.kind not in _LISTED:
        text = "only these kinds of grant go into a manifest"
        return refuse(Code.MANIFEST_NOT_ALLOWED, "manifest", text, list(_LISTED))
    return manifest_refusal(message.manifest, case.policy)


def manifest_refusal(manifest: str, policy: Policy) -> Refusal | None:
    """Refuse a manifest where its tenant may store nothing, or not under this key."""
    if not _WRITING & set(policy.kinds):
        text = "the tenant may not store anything here"
        return refuse(Code.MANIFEST_NOT_ALLOWED, "manifest", text, sorted(policy.kinds))
    refusal = object_keys.key_refusal(manifest, policy.prefixes, "manifest")
    return refusal and refusal.model_copy(update={"key": None})  # it is of no item


def may_overwrite_manifest(policy: Policy) -> bool:
    """Whether a manifest may take an object's place: a form may, and a put where policy says so."""
    return "upload" in policy.kinds or policy.overwrite


def _total_found(case: RequestContext) -> str:
    return f"{case.message.total:,} of at most {_most(case):,}"


def _deadline_found(case: RequestContext) -> str:
    return "" if case.message.deadline is None else case.message.deadline.isoformat()


RULES: tuple[Rule[RequestContext], ...] = (
    Rule("total", _total, _total_found),
    Rule("callback", _callback, lambda case: case.message.callback or ""),
    Rule("deadline", _deadline, _deadline_found),
    Rule(
        "manifest", _manifest, lambda case: object_keys.printable_key(case.message.manifest or "")
    ),
)
"""The questions about a batch's header, in the order in which they are asked."""
