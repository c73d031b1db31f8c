"""The entries of the key lookup: a hash of an object key, and the position of its audit row."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

HASH_BITS = 32
# A page has to fit into the row of a page of the database: 8 kB on PostgreSQL, which moves values
# over 2 kB out of the row.
_MAX_PAGE_ENTRIES = 128
_HASH_BYTES, _POSITION_BYTES, _ITEM_BYTES = HASH_BITS // 8, 8, 3  # of 1,000,000 items at most
_MAX_ITEM = (1 << 8 * _ITEM_BYTES) - 1
_MAX_POSITION = b"\xff" * (_POSITION_BYTES + 1)  # greater than any position
ENTRY_BYTES = _HASH_BYTES + _POSITION_BYTES


class Position(NamedTuple):
    """The primary key of an audit row."""

    batch_number: int
    item_number: int


def hash_key(object_key: str) -> bytes:
    """Return the hash of an object key. Different keys may have the same one."""
    return blake2b(object_key.encode(), digest_size=_HASH_BYTES).digest()


def make_entry(object_key: str, batch_number: int, item_number: int) -> bytes:
    """Return an entry. Entries sort by hash, and then by position."""
    return hash_key(object_key) + _pack(Position(batch_number, item_number))


def page_bits_for(entries: int) -> int:
    """Return the number of bits of a hash that divide so many entries into small pages."""
    return (entries // _MAX_PAGE_ENTRIES).bit_length()


def page_of(hash_: bytes, page_bits: int) -> int:
    """Return the number of the page with the entries of a hash."""
    return int.from_bytes(hash_, "big") >> (HASH_BITS - page_bits)


def divide_into_pages(entries: Sequence[bytes], page_bits: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the content of each page that has entries; entries are sorted."""
    start = 0
    while start < len(entries):
        page = page_of(entries[start][:_HASH_BYTES], page_bits)
        after = (page + 1) << (HASH_BITS - page_bits)  # the first hash of the next page
        end = len(entries)
        if after < 1 << HASH_BITS:
            end = bisect_left(entries, after.to_bytes(_HASH_BYTES, "big"), start)
        yield page, b"".join(entries[start:end])
        start = end


def split_page(content: bytes) -> Iterable[bytes]:
    """Return the entries of a page."""
    return [content[at : at + ENTRY_BYTES] for at in range(0, len(content), ENTRY_BYTES)]


def newest_positions(content: bytes, hash_: bytes, before: Position | None) -> Iterator[Position]:
    """Yield the positions of a hash in a page, newest first, and only those before a position."""
    numbers = range(len(content) // ENTRY_BYTES)

    def entry(number: int) -> bytes:
        return content[number * ENTRY_BYTES : (number + 1) * ENTRY_BYTES]

    first = bisect_left(numbers, hash_, key=entry)
    end = bisect_left(
        numbers, hash_ + (_MAX_POSITION if before is None else _pack(before)), first, key=entry
    )
    for number in reversed(numbers[first:end]):
        yield _unpack(entry(number)[_HASH_BYTES:])


def _pack(position: Position) -> bytes:
    batch_number, item_number = position
    number = (batch_number << 8 * _ITEM_BYTES) | item_number
    return number.to_bytes(_POSITION_BYTES, "big")


def _unpack(position: bytes) -> Position:
    number = int.from_bytes(position, "big")
    return Position(number >> 8 * _ITEM_BYTES, number & _MAX_ITEM)
