"""Whether a batch may be granted: its message held against what its tenant was allowed."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from valetkey.messages import Download, Message, Upload
from valetkey.refusals import Code, Refusal
from worker.core.disposition import LONGEST_FILENAME, valid_filename
from worker.core.tenancy import Bucket, Declared, Policy, Tenant

MOST_METADATA = 2_048  # bytes, names and values together; AWS: UsingMetadata.html
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*").fullmatch
_META_NAME = re.compile(r"[a-z0-9][a-z0-9-]*").fullmatch
_META_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?").fullmatch
# A browser runs these: a wildcard never means them, they must be allowed by name.
_ACTIVE = re.compile(r".*(html|xml|svg|javascript|ecmascript|multipart).*").fullmatch


@dataclass(frozen=True, slots=True)
class Admitted:
    """A batch that policy allows: where it is signed for, which keys, and for how many seconds."""

    bucket: Bucket
    prefixes: tuple[str, ...]
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
    refusal = _batch(message, tenant, now) or _kind(message, policy)
    return refusal or _life(message, declared.buckets[policy.bucket], policy)


def _refuse(
    code: Code, field: str, message: str, limit: int | str | list[str] | None = None
) -> Refusal:
    return Refusal(code=code, field=field, message=message, limit=limit)


def _batch(message: Message, tenant: Tenant, now: datetime) -> Refusal | None:
    if message.total > tenant.max_batch:
        text = "more items than the tenant may ask for at once"
        return _refuse(Code.BATCH_TOO_LARGE, "total", text, tenant.max_batch)
    if message.callback is not None and message.callback not in tenant.endpoints:
        known = sorted(tenant.endpoints)
        return _refuse(Code.CALLBACK_UNKNOWN, "callback", "no such endpoint of the tenant", known)
    if message.deadline is not None and message.deadline <= now:
        text = "the answer would come too late"
        return _refuse(Code.DEADLINE_PASSED, "deadline", text, message.deadline.isoformat())
    return None


def _kind(message: Message, policy: Policy) -> Refusal | None:
    grant = message.grant
    if grant.kind not in policy.kinds:
        text = f"the tenant may not {grant.kind} here"
        return _refuse(Code.KIND_NOT_ALLOWED, "grant.kind", text, sorted(policy.kinds))
    if isinstance(grant, Upload):
        return _upload(grant, policy)
    return _download(grant, policy)


def _download(grant: Download, policy: Policy) -> Refusal | None:
    if grant.filename is not None and not valid_filename(grant.filename):
        return filename_refused("grant.filename")
    return None if grant.content_type is None else _content_type(grant.content_type, policy)


def filename_refused(field: str) -> Refusal:
    """Say what a file name must be; field is where the message has it."""
    text = "a file name has no slash, backslash, quote or hidden character"
    return _refuse(Code.FILENAME_INVALID, field, text, LONGEST_FILENAME)


def _upload(grant: Upload, policy: Policy) -> Refusal | None:
    if grant.max_size > policy.max_size:
        text = "larger than the tenant may upload"
        return _refuse(Code.SIZE_TOO_LARGE, "grant.max_size", text, policy.max_size)
    if grant.acl is not None and grant.acl not in policy.acls:
        return _refuse(Code.ACL_NOT_ALLOWED, "grant.acl", "not allowed", list(policy.acls))
    return _content_type(grant.content_type, policy) or _metadata(grant.metadata)


def _content_type(value: str, policy: Policy) -> Refusal | None:
    field = "grant.content_type"
    if not _TYPE(value):
        text = "a content type is type/subtype in lower case, without parameters"
        return _refuse(Code.CONTENT_TYPE_INVALID, field, text)
    wildcards = () if _ACTIVE(value) else (f"{value.partition('/')[0]}/*", "*/*")
    if not {value, *wildcards} & set(policy.content_types):
        return _refuse(
            Code.CONTENT_TYPE_NOT_ALLOWED, field, "not allowed", list(policy.content_types)
        )
    return None


def _metadata(metadata: dict[str, str]) -> Refusal | None:
    if sum(len(name) + len(value) for name, value in metadata.items()) > MOST_METADATA:
        text = "names and values are too long together"
        return _refuse(Code.METADATA_INVALID, "grant.metadata", text, MOST_METADATA)
    for name, value in metadata.items():
        if not _META_NAME(name) or name.startswith("x-amz-") or name == "grant-id":
            text = "a name is lower-case letters, digits and hyphens, and none of ours or Amazon's"
            return _refuse(Code.METADATA_INVALID, "grant.metadata", text)
        if not _META_VALUE(value):
            text = "a value is printable ASCII"
            return _refuse(Code.METADATA_INVALID, f"grant.metadata.{name}", text)
    return None


def _life(message: Message, bucket: Bucket, policy: Policy) -> Admitted | Refusal:
    grant, longest = message.grant, policy.max_expires_in
    if grant.expires_in <= longest:
        return Admitted(bucket, policy.prefixes, grant.expires_in, "request")
    if grant.min_expires_in is not None and grant.min_expires_in <= longest:
        return Admitted(bucket, policy.prefixes, longest, "policy")
    field = "grant.expires_in" if grant.min_expires_in is None else "grant.min_expires_in"
    text = "longer than the policy allows"
    return _refuse(Code.EXPIRY_TOO_LONG, field, text, longest)
