"""The ids of grants, which travel in signed URLs and as metadata of objects."""


def grant_id(batch_id: str, item_number: int) -> str:
    """Return the id of a grant: the batch id, a dot and the item's number, counted from 0."""
    return f"{batch_id}.{item_number}"


def split_grant_id(text: str) -> tuple[str, int]:
    """Return the batch id and the item number of a grant id. Raises ValueError."""
    batch_id, _, item = text.rpartition(".")
    return batch_id, int(item)
