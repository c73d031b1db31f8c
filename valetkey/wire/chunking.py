"""What a producer asks for, cut into messages. Pure: clock and randomness are arguments."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel

from valetkey.wire.messages import MAX_CHUNK_ITEMS, VERSION, Item, task_id
from valetkey.wire.options import http_date
from valetkey.wire.pending import PendingMessage, pending_message
from valetkey.wire.terms import Download, Kind, Multipart, Parts, Put, Terms, Upload

_OF_HEADER = ("callback", "deadline", "reason")
_TERMS: dict[Kind, type[Terms]] = {
    "download": Download,
    "upload": Upload,
    "put": Put,
    "multipart": Multipart,
    "parts": Parts,
}

ItemInput = str | Item | Mapping[str, Any]
"""An item: its key, or all that is to be said of it; what is None is not said."""


class ChunkSlice(NamedTuple):
    """Where a chunk is in its batch: its number, that of its first item, and how many it has."""

    number: int
    first: int
    items: int
    is_last: bool


def uuid7(milliseconds: int, randomness: bytes) -> str:
    """A UUIDv7 (RFC 9562, section 5.7) from Unix time and at least ten random bytes."""
    noise = int.from_bytes(randomness[:10]) & ~(0xF << 76 | 0b11 << 62)
    return str(UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62 | noise))


def batch_header(  # noqa: PLR0913 - the fields of a header, all by name
    *,
    kind: Kind,
    tenant: str,
    requested_by: str,
    bucket: str,
    batch: str,
    total: int,
    chunk_size: int,
    options: Mapping[str, Any],
    manifest: str | None = None,
) -> dict[str, Any]:
    """What all chunks of a batch say alike, as JSON values.

    Raises TypeError for an option that its kind does not have, ValueError for a chunk size that
    no message may have or a date without a time zone.
    """
    unknown = sorted(options.keys() - option_names(kind))
    if unknown:
        raise TypeError(f"{kind} has no option {unknown[0]!r}")
    if not 1 <= chunk_size <= MAX_CHUNK_ITEMS:
        raise ValueError(f"chunk_size is from 1 to {MAX_CHUNK_ITEMS}")
    said = {name: value for name, value in options.items() if value is not None}
    terms = {name: _json(value) for name, value in said.items() if name not in _OF_HEADER}
    head = {
        "v": VERSION,
        "tenant": tenant,
        "batch": batch,
        "requested_by": requested_by,
        "grant": {"kind": kind, "bucket": bucket, "expires_in": 3600} | terms,
        "total": total,
        "chunk_size": chunk_size,
    } | {name: _of_header(said[name]) for name in _OF_HEADER if name in said}
    return head if manifest is None else head | {"manifest": manifest}


def option_names(kind: Kind) -> set[str]:
    """The options that a request of this kind may have."""
    return {*_TERMS[kind].model_fields, *_OF_HEADER} - {"kind", "bucket"}


def chunk_messages(
    head: Mapping[str, Any], items: Iterable[ItemInput], first_chunk: int = 0
) -> Iterator[PendingMessage]:
    """Cut a batch into messages, reading no further ahead than the one asked for.

    The items are those from the chunk first_chunk on. Raises ValueError where they are not as many
    as the header's total says.
    """
    rest, cut = iter(items), Chunker(head)
    for place in chunk_slices(head, first_chunk):
        asked = list(islice(rest, place.items))
        yield cut.chunk(place, asked, is_more=place.is_last and next(rest, None) is not None)


def chunk_slices(head: Mapping[str, Any], first_chunk: int = 0) -> Iterator[ChunkSlice]:
    """Where a batch is cut, from the chunk first_chunk on."""
    total, size = head["total"], head["chunk_size"]
    for first in range(first_chunk * size, total, size):
        yield ChunkSlice(first // size, first, min(size, total - first), first + size >= total)


class Chunker:
    """Makes the messages of one batch."""

    def __init__(self, head: Mapping[str, Any]) -> None:
        self._head = head
        self._plain: PendingMessage | None = None

    def chunk(self, place: ChunkSlice, asked: list[ItemInput], *, is_more: bool) -> PendingMessage:
        """Make one chunk's message of its items, behind the last of which there are more or not.

        Raises ValueError where these are fewer or more than the header's total says.
        """
        total = self._head["total"]
        if len(asked) < place.items:
            raise ValueError(f"total is {total}, but there are {place.first + len(asked)} items")
        if is_more:
            raise ValueError(f"total is {total}, but there are more items")
        message = {**self._head, "chunk": place.number, "items": [_row(item) for item in asked]}
        name = task_id(self._head["batch"], place.number)
        if not all(type(item) is str for item in asked):
            return pending_message(name, message)
        # Of chunks that only name keys, what is wrong with one is in the header, so wrong with all:
        # to read each would be a sixth of what a producer does.
        self._plain = self._plain or pending_message(name, message)
        return replace(self._plain, name=name, message=message)


def _row(item: ItemInput) -> dict[str, Any]:
    if isinstance(item, str):
        return {"key": item}
    if isinstance(item, Item):
        return item.model_dump(exclude_none=True)
    return {name: _json(value) for name, value in item.items() if value is not None}


def _json(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    return http_date(value) if isinstance(value, datetime) else value


def _of_header(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
