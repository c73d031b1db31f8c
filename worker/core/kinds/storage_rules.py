"""The rules, costs and S3 actions that the kinds which store an object share."""

import re
from collections.abc import Collection

from valetkey.units import describe_size
from valetkey.wire.messages import MAX_BATCH_ITEMS, Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Multipart, Put, StorageTerms, Upload
from worker.core.kinds.rules import PolicyContext, Rule, make_field_rule, refuse
from worker.core.quotas.cost import Cost
from worker.core.signing.forms import FILENAME_VARIABLE
from worker.core.tenants.config import Policy

STORE_ACTIONS = frozenset({"s3:PutObject", "s3:PutObjectAcl", "s3:PutObjectTagging"})
STORED_METADATA_BYTES = 2_048  # names and values together; AWS: UsingMetadata.html
_LONGEST_GRANT_ID = len("grant-id") + 36 + 1 + len(str(MAX_BATCH_ITEMS - 1))
MAX_METADATA_BYTES = STORED_METADATA_BYTES - _LONGEST_GRANT_ID  # storage counts the grant id, too
MAX_TAGS = 10  # AWS: object-tagging.html, and the lengths and characters below
_METADATA_NAME = re.compile(r"[a-z0-9][a-z0-9-]*").fullmatch
_METADATA_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?").fullmatch
_TAG_NAME = re.compile(r"[\w .:/=+@-]{1,128}").fullmatch
_TAG_VALUE = re.compile(r"[\w .:/=+@-]{0,256}").fullmatch


def _check_max_size(terms: Upload | Put | Multipart, policy: Policy) -> Refusal | None:
    if terms.max_size <= policy.max_size:
        return None
    text = f"larger than the tenant's policy allows: at most {describe_size(policy.max_size)}"
    return refuse(Code.SIZE_TOO_LARGE, "grant.max_size", text, policy.max_size)


def _check_acl(terms: StorageTerms, policy: Policy) -> Refusal | None:
    if terms.acl in {None, *policy.acls}:
        return None
    text = "the tenant's policy does not allow this ACL"
    return refuse(Code.ACL_NOT_ALLOWED, "grant.acl", text, list(policy.acls))


def _check_metadata(terms: StorageTerms, _: Policy) -> Refusal | None:
    if sum(len(name) + len(value) for name, value in terms.metadata.items()) > MAX_METADATA_BYTES:
        text = (
            "the names and values together have too many bytes beside those of the grant id:"
            f" at most {describe_size(MAX_METADATA_BYTES)}"
        )
        return refuse(Code.METADATA_INVALID, "grant.metadata", text, MAX_METADATA_BYTES)
    for name, value in terms.metadata.items():
        if not _METADATA_NAME(name) or name.startswith("x-amz-") or name == "grant-id":
            text = (
                "a name has lower-case a-z, digits and hyphens, does not begin with x-amz-,"
                " and is not grant-id"
            )
            return refuse(Code.METADATA_INVALID, "grant.metadata", text)
        if not _METADATA_VALUE(value) or "  " in value:
            text = "a value is printable ASCII, without two spaces in a row"
            return refuse(Code.METADATA_INVALID, f"grant.metadata.{name}", text)
        if isinstance(terms, Upload) and FILENAME_VARIABLE in value:
            text = "in a form, a value has no ${filename}, because storage replaces it"
            return refuse(Code.METADATA_INVALID, f"grant.metadata.{name}", text)
    return None


def _check_tags(terms: StorageTerms, _: Policy) -> Refusal | None:
    if len(terms.tags) > MAX_TAGS:
        return refuse(Code.TAGS_INVALID, "grant.tags", "an object has too many tags", MAX_TAGS)
    for name, value in terms.tags.items():
        if not _TAG_NAME(name) or not _TAG_VALUE(value) or name.startswith("aws:"):
            text = (
                "a name has 1 to 128, a value up to 256 word characters, spaces or . : / = + @ -,"
                " and a name does not begin with aws:"
            )
            return refuse(Code.TAGS_INVALID, "grant.tags", text)
    return None


def _check_storage_class(terms: StorageTerms, policy: Policy) -> Refusal | None:
    if terms.storage_class in {None, *policy.storage_classes}:
        return None
    text = "the tenant's policy does not allow this storage class"
    allowed = list(policy.storage_classes)
    return refuse(Code.STORAGE_CLASS_NOT_ALLOWED, "grant.storage_class", text, allowed)


def _check_encryption(terms: StorageTerms, policy: Policy) -> Refusal | None:
    encryption = terms.encryption
    if encryption is None or (encryption.algorithm == "AES256" and encryption.key is None):
        return None
    if encryption.algorithm != "AES256" and encryption.key in policy.kms_keys:
        return None
    text = "aws:kms requires one of the policy's keys, and AES256 takes no key"
    return refuse(Code.ENCRYPTION_NOT_ALLOWED, "grant.encryption", text, list(policy.kms_keys))


STORAGE_RULES: tuple[Rule[PolicyContext], ...] = (
    make_field_rule("max_size", _check_max_size),
    make_field_rule("acl", _check_acl),
    make_field_rule("metadata", _check_metadata),
    make_field_rule("tags", _check_tags),
    make_field_rule("storage_class", _check_storage_class),
    make_field_rule("encryption", _check_encryption),
)
"""The rules of every kind of grant that stores an object, in the order in which they apply."""


def reserved_cost(terms: Upload | Put | Multipart, count: int) -> Cost:
    """Return the cost of a number of items, each of the largest size that the terms allow."""
    return Cost(grants=count, upload_bytes=count * terms.max_size)


def exact_cost(_: Put | Multipart, items: Collection[Item]) -> Cost:
    """Return the cost of items that name their exact size."""
    return Cost(grants=len(items), upload_bytes=sum(item.size or 0 for item in items))
