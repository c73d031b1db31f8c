"""Policy rules: named checks of one field of a request each, and those that kinds share.

docs/appendix/file-names.md has what a browser makes of each content type, and the reasons.
"""

import base64
import binascii
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from valetkey.signing.response_headers import (
    FILENAME_TOO_LONG,
    MAX_FILENAME_BYTES,
    find_filename_fault,
)
from valetkey.signing.signing_context import Validity
from valetkey.signing.sigv4 import FILENAME_VARIABLE
from valetkey.units import describe_size
from valetkey.wire.messages import MAX_BATCH_ITEMS, ChunkMessage, Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import (
    AnyTerms,
    Checksum,
    Download,
    Encryption,
    Multipart,
    PolicyKind,
    Put,
    StorageTerms,
    Upload,
)
from worker.rules.config_values import TYPE_NAME
from worker.rules.tenant_config import Bucket, Policy, Tenant

Limit = int | str | list[str] | None


@dataclass(frozen=True, slots=True)
class PolicyContext:
    """Terms, and the bucket profile and policy that they are checked against."""

    terms: AnyTerms
    bucket: Bucket
    policy: Policy


@dataclass(frozen=True, slots=True)
class BatchContext(PolicyContext):
    """A batch, requested or committed: its tenant, total and callback as well as its terms.

    validity is that of its grants, now the time of the decision.
    """

    tenant: Tenant
    total: int
    callback: str | None
    validity: Validity
    now: datetime


@dataclass(frozen=True, slots=True)
class RequestContext(BatchContext):
    """A whole request: its message as well as what a committed batch has."""

    message: ChunkMessage


C_contra = TypeVar("C_contra", bound=PolicyContext, contravariant=True)


class Rule(NamedTuple, Generic[C_contra]):
    """One check of a request, named after the field of the message that it looks at.

    check returns a refusal or None. describe returns the field's value for explanations, or an
    empty string if the request does not have the field.
    """

    name: str
    check: Callable[[C_contra], Refusal | None]
    describe: Callable[[C_contra], str]


def first_refusal(rules: Iterable[Rule[C_contra]], context: C_contra) -> Refusal | None:
    """Return the refusal of the first rule that the request breaks."""
    for rule in rules:
        refusal = rule.check(context)
        if refusal is not None:
            return refusal
    return None


def refuse(code: Code, field: str, message: str, limit: Limit = None) -> Refusal:
    """Refuse one field of a request; limit is what would be accepted."""
    return Refusal(code=code, field=field, message=message, limit=limit)


def make_field_rule(
    name: str, check: Callable[[Any, Policy], Refusal | None]
) -> Rule[PolicyContext]:
    """Make a rule for a field of the terms from a check of the terms against the policy."""
    return Rule(
        f"grant.{name}",
        lambda context: check(context.terms, context.policy),
        lambda context: describe_field_value(context.terms, name),
    )


def make_kind_rule(kind: PolicyKind) -> Rule[PolicyContext]:
    """Return the rule that refuses a kind that the policy does not allow."""

    def check(context: PolicyContext) -> Refusal | None:
        if kind in context.policy.kinds:
            return None
        text = f"the tenant's policy does not allow {kind} in this bucket profile"
        return refuse(Code.KIND_NOT_ALLOWED, "grant.kind", text, sorted(context.policy.kinds))

    return Rule("grant.kind", check, lambda context: context.terms.kind)


def _check_owner(context: PolicyContext) -> Refusal | None:
    if not getattr(context.terms, "check_owner", False) or context.bucket.owner:
        return None
    text = "the bucket profile does not name the account that owns the bucket"
    return refuse(Code.OWNER_UNKNOWN, "grant.check_owner", text)


OWNER_RULE = Rule[PolicyContext](
    "grant.check_owner",
    _check_owner,
    lambda context: describe_field_value(context.terms, "check_owner"),
)


def describe_field_value(terms: AnyTerms, name: str) -> str:
    """Describe the value of one field of the terms; an empty string if it is not set."""
    value = getattr(terms, name, None)
    match value:
        case None | False:
            return ""
        case True:
            return "yes"
        case int():
            return describe_size(value)
        case dict():
            return ", ".join(value)
        case Encryption():
            return value.algorithm
    return str(value)


# Types that a wildcard of a policy includes. A browser displays, plays or saves them, and runs
# nothing in them. A type that is not in this list has to be named in the policy, because the names
# of types do not show which ones run scripts: text/xsl and application/unknown do.
_INERT_SUBTYPES = {
    "application": """
        epub+zip geo+json gzip json jsonl ld+json msword octet-stream pdf rtf vnd.apache.parquet
        vnd.ms-excel vnd.ms-outlook vnd.ms-powerpoint vnd.oasis.opendocument.graphics
        vnd.oasis.opendocument.presentation vnd.oasis.opendocument.spreadsheet
        vnd.oasis.opendocument.text vnd.rar vnd.sqlite3
        vnd.openxmlformats-officedocument.presentationml.presentation
        vnd.openxmlformats-officedocument.spreadsheetml.sheet
        vnd.openxmlformats-officedocument.wordprocessingml.document
        x-7z-compressed x-bzip2 x-gzip x-ndjson x-tar x-xz x-zip-compressed zip zstd""",
    "audio": """
        3gpp 3gpp2 aac ac3 aiff amr basic flac midi mp3 mp4 mpeg ogg opus vorbis wav wave webm
        x-aiff x-flac x-m4a x-matroska x-ms-wma x-wav""",
    "font": "collection otf sfnt ttf woff woff2",
    "image": """
        apng avif bmp gif heic heic-sequence heif heif-sequence jp2 jpeg jpg jxl pjpeg png tiff
        vnd.adobe.photoshop vnd.microsoft.icon webp x-adobe-dng x-canon-cr2 x-icon x-ms-bmp
        x-nikon-nef x-png x-sony-arw""",
    "model": "gltf-binary obj step stl",
    "text": "calendar csv markdown plain rtf tab-separated-values vcard vtt",
    "video": """
        3gpp 3gpp2 mp2t mp4 mpeg ogg quicktime webm x-flv x-m4v x-matroska x-ms-asf x-ms-wmv
        x-msvideo""",
}
INERT_TYPES = frozenset(
    f"{family}/{subtype}"
    for family, subtypes in _INERT_SUBTYPES.items()
    for subtype in subtypes.split()
)

# Families from which a form may leave the choice to the client. Storage checks only how the type
# begins. A browser runs no type of the first three; for the others, the policy has to name the type
# that makes the choice no worse. No other family can be left to the client.
_FORM_FAMILIES: dict[str, str | None] = {
    "audio/*": None,
    "font/*": None,
    "video/*": None,
    "application/*": "application/xhtml+xml",
    "image/*": "image/svg+xml",
    "text/*": "text/html",
}

_FIELD = "grant.content_type"
_TYPE = re.compile(rf"{TYPE_NAME}/{TYPE_NAME}").fullmatch
_FAMILY = re.compile(rf"{TYPE_NAME}/\*").fullmatch


def check_content_type(terms: Download | StorageTerms, policy: Policy) -> Refusal | None:
    """Refuse a content type that is malformed, or that the policy does not allow."""
    value = terms.content_type
    if value is None:
        return None
    if _FAMILY(value) or value == "*/*":
        text = (
            "a wildcard is not a content type, also if the policy has it: name one type, such as"
            " image/png; only the form of an upload can leave the choice to its client"
        )
        return refuse(Code.CONTENT_TYPE_INVALID, _FIELD, text)
    if not _TYPE(value):
        text = "a content type is type/subtype in lower case, without parameters"
        return refuse(Code.CONTENT_TYPE_INVALID, _FIELD, text)
    if _is_allowed(value, policy):
        return None
    text = (
        "the tenant's policy does not name this content type, and a wildcard includes only types"
        " that browsers do not run"
    )
    return refuse(Code.CONTENT_TYPE_NOT_ALLOWED, _FIELD, text, list(policy.content_types))


def check_form_content_type(terms: Upload, policy: Policy) -> Refusal | None:
    """Check a form's content type, which may be a family like video/* for the client to choose."""
    family = terms.content_type
    if not _FAMILY(family) and family != "*/*":
        return check_content_type(terms, policy)
    if family in client_chosen_families(policy):
        return None
    if family not in _FORM_FAMILIES:
        text = "the client may choose only within one of these families, if the policy names it"
        return refuse(Code.CONTENT_TYPE_NOT_ALLOWED, _FIELD, text, sorted(_FORM_FAMILIES))
    active = _FORM_FAMILIES[family]
    required = [name for name in (family, active) if name is not None]
    text = "the client may choose within this family only if the policy names it"
    if active is not None:
        text = (
            f"storage cannot keep a client that chooses within this family from {active}, which"
            " browsers run: the policy has to name both, or the request one type"
        )
    return refuse(Code.CONTENT_TYPE_NOT_ALLOWED, _FIELD, text, required)


def client_chosen_families(policy: Policy) -> list[str]:
    """Return the families within which a form may leave the choice of the type to the client."""
    return [
        family
        for family, active in _FORM_FAMILIES.items()
        if family in policy.content_types and active in {None, *policy.content_types}
    ]


def unusable_content_types(policy: Policy) -> list[str]:
    """Return wildcards that include no inert type, and inline types that are not allowed."""
    families = {f"{family}/*" for family in _INERT_SUBTYPES} | {"*/*"}
    return [
        *(name for name in policy.content_types if name.endswith("/*") and name not in families),
        *(name for name in policy.inline if not _is_allowed(name, policy)),
    ]


def _is_allowed(value: str, policy: Policy) -> bool:
    if value in policy.content_types:
        return True
    wildcards = {f"{value.partition('/')[0]}/*", "*/*"}
    return value in INERT_TYPES and not wildcards.isdisjoint(policy.content_types)


ItemCheck = Callable[[Item, Any, str], Refusal | None]
"""Checks one field of an item against the terms; the third argument is the field's path."""

_DIGEST_BYTES = {"sha256": 32, "crc32": 4, "crc32c": 4, "crc64nvme": 8}
_VERSION_ID = re.compile(r"[A-Za-z0-9._-]{1,1024}").fullmatch  # AWS: versioning-workflows.html


def refuse_filename(name: str, field: str) -> Refusal | None:
    """Return the refusal of a filename, or None; field is its path in the message."""
    fault = find_filename_fault(name)
    if fault is None:
        return None
    limit = MAX_FILENAME_BYTES if fault == FILENAME_TOO_LONG else None
    return refuse(Code.FILENAME_INVALID, field, fault, limit)


def check_version_id(item: Item, _: Any, field: str) -> Refusal | None:
    """Refuse a version id that S3 would never have issued."""
    if _VERSION_ID(item.version_id or ""):
        return None
    text = "a version id has 1 to 1,024 characters of a-z, A-Z, 0-9, '.', '_' and '-'"
    return refuse(Code.VERSION_INVALID, field, text, 1024)


def check_size(item: Item, terms: Any, field: str) -> Refusal | None:
    """Refuse a size over the terms' max_size, or under their min_size if they have one."""
    if item.size is None:
        return None
    if item.size > terms.max_size:
        text = f"larger than the max_size of the grant, {describe_size(terms.max_size)}"
        return refuse(Code.SIZE_TOO_LARGE, field, text, terms.max_size)
    # On a pydantic model, getattr takes a microsecond to find out that a field is missing.
    min_size = vars(terms).get("min_size", 0)
    if item.size < min_size:
        text = f"smaller than the min_size of the grant, {describe_size(min_size)}"
        return refuse(Code.SIZE_INVALID, field, text, min_size)
    return None


def check_checksum_format(item: Item, _: Any, field: str) -> Refusal | None:
    """Refuse a checksum that is not the canonical base64 of its algorithm's digest."""
    checksum = item.checksum
    if checksum is None or _is_canonical(checksum):
        return None
    length = _DIGEST_BYTES[checksum.algorithm]
    text = f"a {checksum.algorithm} checksum is the base64 of {length} bytes"
    return refuse(Code.CHECKSUM_INVALID, field, text, length)


def _is_canonical(checksum: Checksum) -> bool:
    try:
        digest = base64.b64decode(checksum.value, validate=True)
    except (binascii.Error, ValueError):
        return False
    # Storage servers decode other spellings of the same digest differently, or refuse them.
    canonical = base64.b64encode(digest).decode() == checksum.value
    return canonical and len(digest) == _DIGEST_BYTES[checksum.algorithm]


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
    allowed: list[str] = list(policy.storage_classes)
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
