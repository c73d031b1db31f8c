"""The ids of grants, which travel in signed URLs and as metadata of objects."""

import re

UUID7 = "[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
"""A UUIDv7 in lower case (RFC 9562, section 5.7), as a regular expression."""

_is_uuid7 = re.compile(UUID7).fullmatch
_is_grant_id = re.compile(
    r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(0|[1-9][0-9]{0,8})"
).fullmatch


def is_batch_id(text: str) -> bool:
    """Return true for the text of a batch id."""
    return _is_uuid7(text) is not None


def grant_id(batch_id: str, item_number: int) -> str:
    """Return the id of a grant: the batch id, a dot and the item's number, counted from 0."""
    return f"{batch_id}.{item_number}"


def split_grant_id(text: str) -> tuple[str, int]:
    """Return the batch id and the item number of a grant id. Raises ValueError."""
    match = _is_grant_id(text)
    if match is None:
        raise ValueError("not the id of a grant")
    return match[1], int(match[2])
