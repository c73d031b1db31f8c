"""Divides a batch into messages. Pure: clock and randomness are arguments."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple
from uuid import UUID

from pydantic import BaseModel

from valetkey.wire.messages import Item, task_id
from valetkey.wire.options import http_date
from valetkey.wire.pending import PendingMessage, build_pending_message

RowInput = Item | Mapping[str, Any]
"""An item as a model or a mapping of its fields; a field that is None is not sent."""
ItemInput = str | RowInput
"""An item: an object key, or its fields."""


class ChunkSlice(NamedTuple):
    """The position of a chunk in its batch. Numbers count from 0."""

    chunk_number: int
    first_item: int
    item_count: int
    is_last: bool


def uuid7(milliseconds: int, randomness: bytes) -> str:
    """Return a UUIDv7 (RFC 9562, section 5.7) from Unix time and at least ten random bytes."""
    random_bits = int.from_bytes(randomness[:10]) & ~(0xF << 76 | 0b11 << 62)
    return str(UUID(int=milliseconds << 80 | 0x7 << 76 | 0b10 << 62 | random_bits))


def uuid7_time(text: str) -> float:
    """Return the Unix time of a UUIDv7, or of an id that begins with one."""
    return int(text[:8] + text[9:13], 16) / 1000


def chunk_messages(
    header: Mapping[str, Any], items: Iterable[ItemInput], first_chunk: int = 0
) -> Iterator[PendingMessage]:
    """Yield the messages of a batch, and read items only as each message needs them.

    The items are those from chunk first_chunk on. Raises ValueError if their number differs from
    the header's total.
    """
    iterator, chunker = iter(items), ChunkMessageBuilder(header)
    for chunk in chunk_slices(header, first_chunk):
        chunk_items = list(islice(iterator, chunk.item_count))
        has_more = chunk.is_last and next(iterator, None) is not None
        yield chunker.build_message(chunk, chunk_items, has_more=has_more)


def chunk_slices(header: Mapping[str, Any], first_chunk: int = 0) -> Iterator[ChunkSlice]:
    """Yield the positions of a batch's chunks, from chunk first_chunk on."""
    total, size = header["total"], header["chunk_size"]
    for first in range(first_chunk * size, total, size):
        yield ChunkSlice(first // size, first, min(size, total - first), first + size >= total)


class ChunkMessageBuilder:
    """Builds the messages of one batch."""

    def __init__(self, header: Mapping[str, Any]) -> None:
        self._header = header
        self._key_only_message: PendingMessage | None = None

    def build_message(
        self, chunk: ChunkSlice, items: list[ItemInput], *, has_more: bool
    ) -> PendingMessage:
        """Build the message of one chunk; has_more says if items follow after this chunk.

        Raises ValueError if there are fewer or more items than the header's total.
        """
        total = self._header["total"]
        if len(items) < chunk.item_count:
            count = chunk.first_item + len(items)
            raise ValueError(f"total is {total}, but there are {count} items")
        if has_more:
            raise ValueError(f"total is {total}, but there are more items")
        fields = [_item_fields(item) for item in items]
        body = {**self._header, "chunk": chunk.chunk_number, "items": fields}
        message_id = task_id(self._header["batch"], chunk.chunk_number)
        if not all(type(item) is str for item in items):
            return build_pending_message(message_id, body)
        # If all items are plain keys, only the header can be malformed, so every chunk gets the
        # same refusal. Parsing each chunk would cost a sixth of a producer's time.
        self._key_only_message = self._key_only_message or build_pending_message(message_id, body)
        return replace(self._key_only_message, task_id=message_id, body=body)


def _item_fields(item: ItemInput) -> dict[str, Any]:
    if isinstance(item, str):
        return {"key": item}
    if isinstance(item, Item):
        return item.model_dump(exclude_none=True)
    return {name: json_value(value) for name, value in item.items() if value is not None}


def json_value(value: Any) -> Any:
    """Return a value of an item or of the terms as JSON; a datetime becomes an HTTP date."""
    if isinstance(value, BaseModel):
        return value.model_dump(exclude_none=True)
    return http_date(value) if isinstance(value, datetime) else value
