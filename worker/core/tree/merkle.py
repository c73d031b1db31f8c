"""Merkle trees with the hashes of RFC 9162, section 2.1.1."""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple, Self

HASH_BYTES = 32
_LEAF, _NODE = b"\x00", b"\x01"


def hash_leaf(data: bytes) -> bytes:
    """Return the hash of a leaf with these bytes."""
    return sha256(_LEAF + data).digest()


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

    def root(self) -> bytes:
        """Return the hash of the whole tree."""
        if not self.hashes:
            return sha256().digest()
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = hash_children(left, root)
        return root


def merkle_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """Return the hash of the tree of these leaves."""
    return RightEdge.of(leaf_hashes).root()
