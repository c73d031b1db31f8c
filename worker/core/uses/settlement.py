"""Settles a chunk of upload slots that ended: what was used, and what is given back."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from worker.core.uses.used_grant import UsedGrant

_MAX_BYTES = 2**63 - 1  # what the column holds


class SettledChunk(NamedTuple):
    """The numbers of the items that stored nothing, the bytes used, and those to be given back."""

    unused: Sequence[int]
    used_bytes: int
    returned_bytes: int


def settle_chunk(
    grants: Iterable[UsedGrant],
    stored: Mapping[int, int | None],
    unclear: Collection[int],
    reserved_bytes: int,
) -> SettledChunk:
    """Settle a chunk: each item keeps what it stored, and the rest of its reservation is returned.

    stored has the size of the largest object that each item stored, None if it is not known.
    unclear are items that may have stored something else. They keep their whole reservation, and so
    do items of unknown size, and forms whose client chooses the names of any number of objects.
    reserved_bytes are what the chunk still has reserved: at most these are returned.
    """
    unused: list[int] = []
    used = kept = 0
    for grant in grants:
        number, reserved = grant.item_number, grant.reserved_bytes
        size = stored.get(number)
        used += max(size or 0, 0)
        if not grant.has_known_key or number in unclear:
            kept += reserved
        elif number not in stored:
            unused.append(number)
        else:
            kept += kept_bytes(size, reserved)
    return SettledChunk(unused, min(used, _MAX_BYTES), max(reserved_bytes - kept, 0))


def kept_bytes(size: int | None, reserved_bytes: int) -> int:
    """Return what an item keeps of its reservation: the size of its largest object, if known."""
    return reserved_bytes if size is None else min(max(size, 0), reserved_bytes)
