"""Merkle trees with the hashes of RFC 9162, section 2.1.1, and the records in their leaves.

A leaf covers audit rows that one transaction adds: it is the root of a Merkle tree over their
records. The records of a chunk are those of its items, in order, then that of the chunk itself, and
last that of its batch if the chunk opened it. So the record of an item has the position of the item
in its chunk.

A record is a JSON object with the values of a row, as RFC 8785 writes it: sorted names, no spaces,
UTF-8. Bytes are in hexadecimal, times in UTC with six digits of a second. A value that is NULL is
left out, so that a column that a later release adds changes no record of an earlier one. A record
contains no number that this database chose, except those of changes of the config.

A text of the producer that may be personal has a salt, a column of its own. The record contains the
commitment to both instead: so the text and its salt can be erased, and nobody can confirm a guess.
"""

import json
from base64 import urlsafe_b64encode
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, reduce
from hashlib import sha256
from json.encoder import encode_basestring
from typing import Any, NamedTuple, Self

from worker.rules.annotations import (
    NO_ANNOTATIONS,
    SALT_SUFFIX,
    Annotations,
    SaltedTexts,
    commitment,
)

HASH_BYTES = 32
_LEAF, _NODE = b"\x00", b"\x01"


def hash_leaf(data: bytes) -> bytes:
    """Return the hash of a leaf with these bytes."""
    return sha256(_LEAF + data).digest()


def key_thumbprint(public_key: str) -> str:
    """Return the thumbprint (RFC 7638) of an Ed25519 key in base64url, in base64url as well."""
    jwk = f'{{"crv":"Ed25519","kty":"OKP","x":"{public_key}"}}'
    return urlsafe_b64encode(sha256(jwk.encode()).digest()).decode().rstrip("=")


def hash_children(left: bytes, right: bytes) -> bytes:
    """Return the hash of a node with these children."""
    return sha256(_NODE + left + right).digest()


class RightEdge(NamedTuple):
    """A tree of some size, as the hashes of its complete subtrees, the largest first.

    This is all that appending needs: a leaf costs one hash, and one more for each subtree that it
    completes.
    """

    size: int
    hashes: tuple[bytes, ...]

    @classmethod
    def of(cls, leaf_hashes: Sequence[bytes]) -> Self:
        """Build the tree of these leaves, at one hash for each."""
        level = list(leaf_hashes)
        edge: list[bytes] = []
        while level:
            if len(level) % 2:
                edge.append(level.pop())
            pairs = iter(level)
            level = [
                sha256(_NODE + left + right).digest()
                for left, right in zip(pairs, pairs, strict=True)
            ]
        return cls(len(leaf_hashes), tuple(reversed(edge)))

    @classmethod
    def from_bytes(cls, size: int, data: bytes) -> Self:
        """Parse stored hashes. Raises ValueError if a tree of this size has other ones."""
        if size < 0 or len(data) != size.bit_count() * HASH_BYTES:
            raise ValueError("the right edge does not fit the size of the tree")
        return cls(size, tuple(data[i : i + HASH_BYTES] for i in range(0, len(data), HASH_BYTES)))

    def to_bytes(self) -> bytes:
        """Return the hashes to store."""
        return b"".join(self.hashes)

    def append(self, leaf_hash: bytes) -> Self:
        """Return the tree with one more leaf."""
        hashes, size = [*self.hashes, leaf_hash], self.size
        while size % 2:
            right, left = hashes.pop(), hashes.pop()
            hashes.append(hash_children(left, right))
            size //= 2
        return type(self)(self.size + 1, tuple(hashes))

    def extend(self, leaf_hashes: Iterable[bytes]) -> Self:
        """Return the tree with more leaves."""
        return reduce(type(self).append, leaf_hashes, self)

    def root(self) -> bytes:
        """Return the hash of the whole tree."""
        if not self.hashes:
            return sha256().digest()
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = hash_children(left, root)
        return root


CONFIG_LOG = "~config"
"""The name of the tree of changes of the config. No tenant has this id."""

CHUNK_KINDS = ("batch", "chunk")
"""The kinds of the leaves that cover a chunk: batch if its batch as well."""

_NOT_RECORDED = frozenset({"batch_number", "prune_number", "group_id"})
"""The columns that no record contains: numbers that this database chose, and a name of a leaf.

Nor does any contain a salt.
"""

NO_LEAVES = RightEdge(0, ())
_encode_sorted = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
).encode
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode
_LAST_OF_ONE_UNIT = "\uffff"


def dump_canonical(value: Any) -> str:
    """Return a JSON value as RFC 8785 writes it: section 3.2.3 sorts names by UTF-16 units.

    Python sorts by code point. Both orders are the same unless a name has a character beyond
    U+FFFF. Numbers are integers, and written exactly: RFC 8785 would round those over 2^53, which
    only limits of quotas can be.
    """
    text = _encode_sorted(value)
    has_one_order = text.isascii() or max(text) <= _LAST_OF_ONE_UNIT
    return text if has_one_order else _encode(_sort_names(value))


def _sort_names(value: Any) -> Any:
    if isinstance(value, dict):
        names = sorted(value, key=lambda name: name.encode("utf-16-be"))
        return {name: _sort_names(value[name]) for name in names}
    return [_sort_names(each) for each in value] if isinstance(value, list | tuple) else value


def encode_record(kind: str, values: Mapping[str, Any], **batch: str) -> bytes:
    """Return the record of a row: its values by column, and the kind of record as `type`.

    batch has the tenant and the id of the row's batch, which the record contains instead of its
    number.
    """
    record: dict[str, Any] = {"type": kind}
    for name, salt in _recorded_columns(tuple(values)):
        value = values[name] if salt is None else commitment(values[name], values[salt])
        if value is not None:
            record[name] = _plain(value)
    return dump_canonical(record | batch).encode()


@cache
def _recorded_columns(names: tuple[str, ...]) -> list[tuple[str, str | None]]:
    """Return the columns that a record contains, each with that of its salt, if it has one."""
    return [
        (name, salt if (salt := name + SALT_SUFFIX) in names else None)
        for name in names
        if name not in _NOT_RECORDED and not name.endswith(SALT_SUFFIX)
    ]


ItemRow = tuple[int, str, str | None, Any, bytes | None]
"""An item's number, key, code, detail and digest, as in a `GrantRow`."""


def item_record(row: ItemRow, annotation: SaltedTexts | None = None) -> bytes:
    """Return the record of an item: its values without those that are None."""
    number, key, code, detail, digest = row
    # Six hundred of these are made for each chunk: much faster than encode_record.
    record = "{" if code is None else f'{{"code":{encode_basestring(code)},'
    if detail is not None:
        record += f'"detail":{dump_canonical(detail)},'
    if digest is not None:
        record += f'"digest":"{digest.hex()}",'
    record += f'"item":{number},"key":{encode_basestring(key)}'
    if annotation is not None:
        record += "".join(f',"{name}":"{hash_}"' for name, hash_ in annotation.commitments.items())
    return f"{record}}}".encode()


def items_edge(rows: Iterable[ItemRow], annotations: Annotations = NO_ANNOTATIONS) -> RightEdge:
    """Return the tree of the items' records, to which the records of their chunk are appended."""
    return RightEdge.of(
        [sha256(_LEAF + item_record(row, annotations.get(row[0]))).digest() for row in rows]
    )


def entry_hash(records: Iterable[bytes], items: RightEdge = NO_LEAVES) -> bytes:
    """Return the hash of the leaf that covers these records, after those of the items."""
    return hash_leaf(items.extend(map(hash_leaf, records)).root())


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return value.hex() if isinstance(value, bytes) else value
