"""The ids of grants, which travel in signed URLs and as metadata of objects."""

import re

_is_grant_id = re.compile(
    r"([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})\.(0|[1-9][0-9]{0,8})"
).fullmatch


def grant_id(batch_id: str, item_number: int) -> str:
    """Return the id of a grant: the batch id, a dot and the item's number, counted from 0."""
    return f"{batch_id}.{item_number}"


def split_grant_id(text: str) -> tuple[str, int]:
    """Return the batch id and the item number of a grant id. Raises ValueError."""
    match = _is_grant_id(text)
    if match is None:
        raise ValueError("not the id of a grant")
    return match[1], int(match[2])
