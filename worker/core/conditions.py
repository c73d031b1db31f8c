"""Which terms may be granted: a batch's own, held against its tenant's policy."""

import re

from valetkey.refusals import Code, Refusal
from valetkey.terms import AnyTerms, Download, Multipart, Parts, Put, Storing, Upload
from worker.core.disposition import valid_filename
from worker.core.items import filename_refused
from worker.core.multipart import plan
from worker.core.tenancy import Policy

MOST_METADATA = 2_048  # bytes, names and values together; AWS: UsingMetadata.html
MOST_TAGS = 10  # AWS: object-tagging.html, and the lengths and characters below
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*").fullmatch
_TYPES = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/\*").fullmatch
_META_NAME = re.compile(r"[a-z0-9][a-z0-9-]*").fullmatch
_META_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?").fullmatch
_TAG_NAME = re.compile(r"[\w .:/=+@-]{1,128}").fullmatch
_TAG_VALUE = re.compile(r"[\w .:/=+@-]{0,256}").fullmatch
_HEADER = re.compile(r"[!-~]([ -~]*[!-~])?").fullmatch
# A browser runs these: a wildcard never means them, they must be allowed by name.
_ACTIVE = re.compile(r".*(html|xml|svg|javascript|ecmascript|multipart).*").fullmatch
_ACTIVE_IN = {
    "application/*": "application/xhtml+xml",
    "image/*": "image/svg+xml",
    "text/*": "text/html",
}
_OVERRIDES = ("cache_control", "content_language", "content_encoding", "expires")

Limit = int | str | list[str] | None


def refused(terms: AnyTerms, policy: Policy, *, owner_known: bool) -> Refusal | None:
    """Refuse terms for the first thing that the policy does not allow."""
    if terms.kind != "parts" and terms.kind not in policy.kinds:
        text = f"the tenant may not {terms.kind} here"
        return _refuse(Code.KIND_NOT_ALLOWED, "kind", text, sorted(policy.kinds))
    if isinstance(terms, Download | Put) and terms.check_owner and not owner_known:
        text = "the bucket profile does not say which account owns it"
        return _refuse(Code.OWNER_UNKNOWN, "check_owner", text)
    if isinstance(terms, Download):
        return _download(terms, policy)
    return None if isinstance(terms, Parts) else _storing(terms, policy)


def _refuse(code: Code, name: str, message: str, limit: Limit = None) -> Refusal:
    return Refusal(code=code, field=f"grant.{name}", message=message, limit=limit)


def _download(terms: Download, policy: Policy) -> Refusal | None:
    if terms.filename is not None and not valid_filename(terms.filename):
        return filename_refused("grant.filename")
    if terms.content_type is not None:
        refusal = _content_type(terms.content_type, policy)
        if refusal is not None:
            return refusal
    if terms.inline and terms.content_type not in policy.inline:
        text = "only these content types may be shown instead of saved"
        return _refuse(Code.INLINE_NOT_ALLOWED, "inline", text, list(policy.inline))
    return _overrides(terms, policy)


def _overrides(terms: Download, policy: Policy) -> Refusal | None:
    for name in _OVERRIDES:
        value = getattr(terms, name)
        if value is None:
            continue
        if name not in policy.overrides:
            text = "this response header is not the tenant's to set"
            return _refuse(Code.OVERRIDE_NOT_ALLOWED, name, text, list(policy.overrides))
        if not _HEADER(value):
            return _refuse(Code.OVERRIDE_NOT_ALLOWED, name, "a header is printable ASCII")
    return None


def _storing(terms: Storing, policy: Policy) -> Refusal | None:
    if isinstance(terms, Upload | Put | Multipart) and terms.max_size > policy.max_size:
        text = "larger than the tenant may upload"
        return _refuse(Code.SIZE_TOO_LARGE, "max_size", text, policy.max_size)
    if terms.acl is not None and terms.acl not in policy.acls:
        return _refuse(Code.ACL_NOT_ALLOWED, "acl", "not allowed", list(policy.acls))
    return (
        _type_stored(terms, policy)
        or _metadata(terms.metadata)
        or _tags(terms.tags)
        or _kept(terms, policy)
        or _particular(terms, policy)
    )


def _type_stored(terms: Storing, policy: Policy) -> Refusal | None:
    value = terms.content_type
    if not (isinstance(terms, Upload) and _TYPES(value)):
        return _content_type(value, policy)
    # Whoever may choose within a family may choose what a browser runs, where it has that.
    active = _ACTIVE_IN.get(value)
    if value not in policy.content_types or active not in {None, *policy.content_types}:
        wanted = [name for name in (value, active) if name is not None]
        text = "to choose within it, the policy must name these"
        return _refuse(Code.CONTENT_TYPE_NOT_ALLOWED, "content_type", text, wanted)
    return None


def _content_type(value: str, policy: Policy) -> Refusal | None:
    if not _TYPE(value):
        text = "a content type is type/subtype in lower case, without parameters"
        return _refuse(Code.CONTENT_TYPE_INVALID, "content_type", text)
    wildcards = () if _ACTIVE(value) else (f"{value.partition('/')[0]}/*", "*/*")
    if not {value, *wildcards} & set(policy.content_types):
        allowed = list(policy.content_types)
        return _refuse(Code.CONTENT_TYPE_NOT_ALLOWED, "content_type", "not allowed", allowed)
    return None


def _metadata(metadata: dict[str, str]) -> Refusal | None:
    if sum(len(name) + len(value) for name, value in metadata.items()) > MOST_METADATA:
        text = "names and values are too long together"
        return _refuse(Code.METADATA_INVALID, "metadata", text, MOST_METADATA)
    for name, value in metadata.items():
        if not _META_NAME(name) or name.startswith("x-amz-") or name == "grant-id":
            text = "a name is lower-case letters, digits and hyphens, and none of ours or Amazon's"
            return _refuse(Code.METADATA_INVALID, "metadata", text)
        if not _META_VALUE(value) or "  " in value:
            text = "a value is printable ASCII, without two spaces in a row"
            return _refuse(Code.METADATA_INVALID, f"metadata.{name}", text)
    return None


def _tags(tags: dict[str, str]) -> Refusal | None:
    if len(tags) > MOST_TAGS:
        return _refuse(Code.TAGS_INVALID, "tags", "too many", MOST_TAGS)
    for name, value in tags.items():
        if not _TAG_NAME(name) or not _TAG_VALUE(value) or name.startswith("aws:"):
            text = "up to 128 and 256 letters, digits, spaces and . : / = + @ _ -, not from aws:"
            return _refuse(Code.TAGS_INVALID, "tags", text)
    return None


def _kept(terms: Storing, policy: Policy) -> Refusal | None:
    """How the object is kept: in which class, and under whose key."""
    if terms.storage_class not in {None, *policy.storage_classes}:
        allowed = list(policy.storage_classes)
        return _refuse(Code.STORAGE_CLASS_NOT_ALLOWED, "storage_class", "not allowed", allowed)
    encryption = terms.encryption
    if encryption is None or (encryption.algorithm == "AES256" and encryption.key is None):
        return None
    if encryption.algorithm == "AES256" or encryption.key not in policy.kms_keys:
        text = "aws:kms goes with one of these keys, AES256 with none"
        allowed = list(policy.kms_keys)
        return _refuse(Code.ENCRYPTION_NOT_ALLOWED, "encryption", text, allowed)
    return None


def _particular(terms: Storing, policy: Policy) -> Refusal | None:
    """What one kind alone has."""
    if isinstance(terms, Put) and terms.overwrite and not policy.overwrite:
        return _refuse(Code.OVERWRITE_NOT_ALLOWED, "overwrite", "not allowed")
    if isinstance(terms, Multipart) and plan(terms.max_size, terms.part_size) is None:
        text = "more than 10,000 parts of this size"
        return _refuse(Code.PART_INVALID, "part_size", text, 10_000)
    redirect = terms.success_redirect if isinstance(terms, Upload) else None
    if redirect is not None and not any(redirect.startswith(url) for url in policy.redirects):
        allowed = list(policy.redirects)
        return _refuse(Code.REDIRECT_NOT_ALLOWED, "success_redirect", "not allowed", allowed)
    return None
