"""Content types: which ones a policy allows, and which ones no browser runs.

docs/files.md has what a browser makes of each, and the reasons.
"""

import re

from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Download, StorageTerms, Upload
from worker.core.kinds.rules import refuse
from worker.core.tenants.config import Policy

# Types that a wildcard of a policy includes. A browser displays, plays or saves them, and runs
# nothing in them. A type that is not in this list has to be named in the policy, because the types
# that run scripts cannot be told by their names: text/xsl and application/unknown are two of them.
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
_TOKEN = r"[a-z0-9][a-z0-9!#$&^_.+-]*"  # noqa: S105 - an RFC 9110 token, not a secret
_TYPE = re.compile(rf"{_TOKEN}/{_TOKEN}").fullmatch
_FAMILY = re.compile(rf"{_TOKEN}/\*").fullmatch


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
