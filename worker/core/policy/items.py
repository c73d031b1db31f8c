"""Which items may be granted: each held against its kind's terms and its tenant's policy."""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Protocol

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import AnyTerms, Checksum, Multipart, Put, Upload
from worker.core.policy.decisions import StartedUpload
from worker.core.signing import object_keys
from worker.core.signing.disposition import MAX_FILENAME_LENGTH, is_valid_filename
from worker.core.signing.multipart_plan import plan_parts
from worker.core.tenants.config import Policy

FILENAME_VARIABLE = "${filename}"
_BYTES = {"sha256": 32, "crc32": 4, "crc32c": 4, "crc64nvme": 8}
_VERSION = re.compile(r"[A-Za-z0-9._-]{1,1024}").fullmatch  # AWS: versioning-workflows.html
_OWN = {
    "download": {"filename", "version_id"},
    "upload": {"checksum", "size"},
    "put": {"checksum", "size"},
    "multipart": {"size"},
    "parts": {"part"},
}
_NEEDED = {"put": ("size", Code.SIZE_REQUIRED), "multipart": ("size", Code.SIZE_REQUIRED)} | {
    "parts": ("part", Code.PART_INVALID)
}


class ContinuedUpload(Protocol):
    """The multipart upload that a request for parts goes on with."""

    @property
    def key(self) -> str: ...  # noqa: D102 - the class says it, here and below
    @property
    def begun(self) -> StartedUpload: ...  # noqa: D102


def simple_item_check(terms: AnyTerms, policy: Policy) -> Callable[[Item], bool]:
    """Prepare to tell the items that nothing could be wrong with: a simple key, and no more.

    Nearly all are such, and to hold each against every rule would take as long as to sign it.
    """
    if terms.kind in _NEEDED:
        return lambda _item: False
    prefixes = policy.prefixes

    def is_fine(item: Item) -> bool:
        has_more = len(item.model_fields_set) > 1
        return (
            not has_more and object_keys.is_simple_key(item.key) and item.key.startswith(prefixes)
        )

    return is_fine


def item_refusal(
    item: Item,
    terms: AnyTerms,
    policy: Policy,
    field: str,
    continued: ContinuedUpload | None = None,
) -> Refusal | None:
    """Refuse an item for the first thing that is wrong with it; field is its place."""
    refusal = item_key_refusal(item, terms, policy, f"{field}.key") or _shape(item, terms, field)
    for name, check in _CHECKS.items():
        if refusal is None and getattr(item, name) is not None:
            refusal = check(item, terms, f"{field}.{name}")
    refusal = refusal or _part(item, continued, field)
    return refusal and refusal.model_copy(update={"key": object_keys.printable_key(item.key)})


def item_key_refusal(item: Item, terms: AnyTerms, policy: Policy, field: str) -> Refusal | None:
    """Refuse a key that is none, or not behind a prefix of the policy."""
    key = item.key
    if terms.kind == "upload" and policy.free_names and key.endswith(f"/{FILENAME_VARIABLE}"):
        # Storage puts the sender's own file name there: the policy says that it may.
        key = key.removesuffix(FILENAME_VARIABLE) + "name"
    return object_keys.key_refusal(key, policy.prefixes, field)


def _shape(item: Item, terms: AnyTerms, field: str) -> Refusal | None:
    for name in item.model_fields_set - {"key"} - _OWN[terms.kind]:
        if getattr(item, name) is not None:
            text = f"not of a {terms.kind}"
            return Refusal(code=Code.UNKNOWN_FIELD, field=f"{field}.{name}", message=text)
    needed, code = _NEEDED.get(terms.kind, ("key", Code.KEY_EMPTY))
    if getattr(item, needed) is None:
        text = f"every item of a {terms.kind} says its {needed}"
        return Refusal(code=code, field=f"{field}.{needed}", message=text)
    return None


def _part(item: Item, continued: ContinuedUpload | None, field: str) -> Refusal | None:
    if continued is None:
        return None
    count = continued.begun.plan.part_count
    if item.key != continued.key:
        text = "not the key of this upload"
        return Refusal(code=Code.PART_INVALID, field=f"{field}.key", message=text)
    if item.part is not None and item.part > count:
        text = "the upload has not so many parts"
        field = f"{field}.part"
        return Refusal(code=Code.PART_INVALID, field=field, message=text, limit=count)
    return None


def _filename(item: Item, _: AnyTerms, field: str) -> Refusal | None:
    return None if is_valid_filename(item.filename or "") else filename_refusal(field)


def filename_refusal(field: str) -> Refusal:
    """Say what a file name must be; field is where the message has it."""
    text = "a file name has no slash, backslash, quote or hidden character"
    return Refusal(code=Code.FILENAME_INVALID, field=field, message=text, limit=MAX_FILENAME_LENGTH)


def _version(item: Item, _: AnyTerms, field: str) -> Refusal | None:
    if _VERSION(item.version_id or ""):
        return None
    text = "a version id is letters, digits, '.', '_' and '-'"
    return Refusal(code=Code.VERSION_INVALID, field=field, message=text, limit=1024)


def _size(item: Item, terms: AnyTerms, field: str) -> Refusal | None:
    if not isinstance(terms, Upload | Put | Multipart) or item.size is None:
        return None
    if item.size > terms.max_size:
        text = "over the batch's own max_size"
        return Refusal(code=Code.SIZE_TOO_LARGE, field=field, message=text, limit=terms.max_size)
    if isinstance(terms, Upload) and item.size < terms.min_size:
        text = "under the batch's own min_size"
        return Refusal(code=Code.SIZE_INVALID, field=field, message=text, limit=terms.min_size)
    if isinstance(terms, Multipart) and plan_parts(item.size, terms.part_size) is None:
        text = "more than 10,000 parts of that part_size"
        return Refusal(code=Code.PART_INVALID, field=field, message=text, limit=10_000)
    return None


def _checksum(item: Item, _: AnyTerms, field: str) -> Refusal | None:
    checksum = item.checksum
    if checksum is None or _fits(checksum):
        return None
    wanted = _BYTES[checksum.algorithm]
    text = f"a {checksum.algorithm} is the base64 of {wanted} bytes"
    return Refusal(code=Code.CHECKSUM_INVALID, field=field, message=text, limit=wanted)


def _fits(checksum: Checksum) -> bool:
    try:
        digest = base64.b64decode(checksum.value, validate=True)
    except (binascii.Error, ValueError):
        return False
    # Only the canonical form: what another spelling means is a reader's choice.
    canonical = base64.b64encode(digest).decode() == checksum.value
    return canonical and len(digest) == _BYTES[checksum.algorithm]


_CHECKS: dict[str, Callable[[Item, AnyTerms, str], Refusal | None]] = {
    "filename": _filename,
    "version_id": _version,
    "size": _size,
    "checksum": _checksum,
}
