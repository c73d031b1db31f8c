"""How an object may be stored: what a batch says of it, held against its tenant's policy."""

import re

from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Multipart, Put, StorageTerms, Upload
from worker.core.policy.rules import PolicyContext, Rule, field_rule, refuse
from worker.core.signing.multipart_plan import plan_parts
from worker.core.tenants.config import Policy

MAX_METADATA_BYTES = 2_048  # bytes, names and values together; AWS: UsingMetadata.html
MAX_TAGS = 10  # AWS: object-tagging.html, and the lengths and characters below
_META_NAME = re.compile(r"[a-z0-9][a-z0-9-]*").fullmatch
_META_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?").fullmatch
_TAG_NAME = re.compile(r"[\w .:/=+@-]{1,128}").fullmatch
_TAG_VALUE = re.compile(r"[\w .:/=+@-]{0,256}").fullmatch


def _max_size(terms: Upload | Put | Multipart, policy: Policy) -> Refusal | None:
    if terms.max_size <= policy.max_size:
        return None
    text = "larger than the tenant may upload"
    return refuse(Code.SIZE_TOO_LARGE, "grant.max_size", text, policy.max_size)


def _acl(terms: StorageTerms, policy: Policy) -> Refusal | None:
    if terms.acl in {None, *policy.acls}:
        return None
    return refuse(Code.ACL_NOT_ALLOWED, "grant.acl", "not allowed", list(policy.acls))


def _metadata(terms: StorageTerms, _: Policy) -> Refusal | None:
    if sum(len(name) + len(value) for name, value in terms.metadata.items()) > MAX_METADATA_BYTES:
        text = "names and values are too long together"
        return refuse(Code.METADATA_INVALID, "grant.metadata", text, MAX_METADATA_BYTES)
    for name, value in terms.metadata.items():
        if not _META_NAME(name) or name.startswith("x-amz-") or name == "grant-id":
            text = "a name is lower-case letters, digits and hyphens, and none of ours or Amazon's"
            return refuse(Code.METADATA_INVALID, "grant.metadata", text)
        if not _META_VALUE(value) or "  " in value:
            text = "a value is printable ASCII, without two spaces in a row"
            return refuse(Code.METADATA_INVALID, f"grant.metadata.{name}", text)
    return None


def _tags(terms: StorageTerms, _: Policy) -> Refusal | None:
    if len(terms.tags) > MAX_TAGS:
        return refuse(Code.TAGS_INVALID, "grant.tags", "too many", MAX_TAGS)
    for name, value in terms.tags.items():
        if not _TAG_NAME(name) or not _TAG_VALUE(value) or name.startswith("aws:"):
            text = "up to 128 and 256 letters, digits, spaces and . : / = + @ _ -, not from aws:"
            return refuse(Code.TAGS_INVALID, "grant.tags", text)
    return None


def _storage_class(terms: StorageTerms, policy: Policy) -> Refusal | None:
    if terms.storage_class in {None, *policy.storage_classes}:
        return None
    allowed = list(policy.storage_classes)
    return refuse(Code.STORAGE_CLASS_NOT_ALLOWED, "grant.storage_class", "not allowed", allowed)


def _encryption(terms: StorageTerms, policy: Policy) -> Refusal | None:
    encryption = terms.encryption
    if encryption is None or (encryption.algorithm == "AES256" and encryption.key is None):
        return None
    if encryption.algorithm != "AES256" and encryption.key in policy.kms_keys:
        return None
    text = "aws:kms goes with one of these keys, AES256 with none"
    return refuse(Code.ENCRYPTION_NOT_ALLOWED, "grant.encryption", text, list(policy.kms_keys))


def _overwrite(terms: Put, policy: Policy) -> Refusal | None:
    if not terms.overwrite or policy.overwrite:
        return None
    return refuse(Code.OVERWRITE_NOT_ALLOWED, "grant.overwrite", "not allowed")


def _part_size(terms: Multipart, _: Policy) -> Refusal | None:
    if plan_parts(terms.max_size, terms.part_size) is not None:
        return None
    return refuse(
        Code.PART_INVALID, "grant.part_size", "more than 10,000 parts of this size", 10_000
    )


def _redirect(terms: Upload, policy: Policy) -> Refusal | None:
    redirect = terms.success_redirect
    if redirect is None or any(redirect.startswith(url) for url in policy.redirects):
        return None
    allowed = list(policy.redirects)
    return refuse(Code.REDIRECT_NOT_ALLOWED, "grant.success_redirect", "not allowed", allowed)


RULES: tuple[Rule[PolicyContext], ...] = (
    field_rule("max_size", _max_size),
    field_rule("acl", _acl),
    field_rule("metadata", _metadata),
    field_rule("tags", _tags),
    field_rule("storage_class", _storage_class),
    field_rule("encryption", _encryption),
    field_rule("overwrite", _overwrite),
    field_rule("part_size", _part_size),
    field_rule("success_redirect", _redirect),
)
"""Every question about what is stored, in the order in which they are asked."""
