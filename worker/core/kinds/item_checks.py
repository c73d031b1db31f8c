"""Checks of the fields that single items have beside their key."""

import base64
import binascii
import re
from collections.abc import Callable
from typing import Any

from valetkey.units import describe_size
from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.terms import Checksum
from worker.core.signing.filenames import MAX_FILENAME_BYTES, TOO_LONG, find_filename_fault

ItemCheck = Callable[[Item, Any, str], Refusal | None]
"""Checks one field of an item against the terms; the third argument is the field's path."""

_DIGEST_BYTES = {"sha256": 32, "crc32": 4, "crc32c": 4, "crc64nvme": 8}
_VERSION_ID = re.compile(r"[A-Za-z0-9._-]{1,1024}").fullmatch  # AWS: versioning-workflows.html


def check_filename(item: Item, _: Any, field: str) -> Refusal | None:
    """Refuse a filename that clients would not save under exactly this name."""
    return refuse_filename(item.filename or "", field)


def refuse_filename(name: str, field: str) -> Refusal | None:
    """Return the refusal of a filename, or None; field is its path in the message."""
    fault = find_filename_fault(name)
    if fault is None:
        return None
    limit = MAX_FILENAME_BYTES if fault == TOO_LONG else None  # the other rules have no limit
    return Refusal(code=Code.FILENAME_INVALID, field=field, message=fault, limit=limit)


def check_version_id(item: Item, _: Any, field: str) -> Refusal | None:
    """Refuse a version id that S3 would never have issued."""
    if _VERSION_ID(item.version_id or ""):
        return None
    text = "a version id has 1 to 1,024 characters of a-z, A-Z, 0-9, '.', '_' and '-'"
    return Refusal(code=Code.VERSION_INVALID, field=field, message=text, limit=1024)


def check_size(item: Item, terms: Any, field: str) -> Refusal | None:
    """Refuse a size over the terms' max_size, or under their min_size if they have one."""
    if item.size is None:
        return None
    if item.size > terms.max_size:
        text = f"larger than the max_size of the grant, {describe_size(terms.max_size)}"
        return Refusal(code=Code.SIZE_TOO_LARGE, field=field, message=text, limit=terms.max_size)
    # On a pydantic model, getattr takes a microsecond to find out that a field is missing.
    min_size = vars(terms).get("min_size", 0)
    if item.size < min_size:
        text = f"smaller than the min_size of the grant, {describe_size(min_size)}"
        return Refusal(code=Code.SIZE_INVALID, field=field, message=text, limit=min_size)
    return None


def check_checksum_format(item: Item, _: Any, field: str) -> Refusal | None:
    """Refuse a checksum that is not the canonical base64 of its algorithm's digest."""
    checksum = item.checksum
    if checksum is None or _is_canonical(checksum):
        return None
    length = _DIGEST_BYTES[checksum.algorithm]
    text = f"a {checksum.algorithm} checksum is the base64 of {length} bytes"
    return Refusal(code=Code.CHECKSUM_INVALID, field=field, message=text, limit=length)


def accept_any(_item: Item, _terms: Any, _field: str) -> None:
    """Accept the value: parsing the message has already checked it."""


def _is_canonical(checksum: Checksum) -> bool:
    try:
        digest = base64.b64decode(checksum.value, validate=True)
    except (binascii.Error, ValueError):
        return False
    # Storage servers decode other spellings of the same digest differently, or refuse them.
    canonical = base64.b64encode(digest).decode() == checksum.value
    return canonical and len(digest) == _DIGEST_BYTES[checksum.algorithm]
