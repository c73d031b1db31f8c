"""Inclusion and consistency proofs of RFC 9162: their paths, and the roots that follow from them.

A path consists of the roots of subtrees. Their ranges of leaves follow from numbers alone, so that
the leaves are read once, in order, and are never all in memory.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from worker.ledger.merkle import RightEdge, hash_children, merkle_root

_BLOCK = 1024  # leaves, a power of two


class WrongProof(ValueError):
    """The path does not lead to the root."""


def inclusion_ranges(index: int, size: int) -> list[range]:
    """Return the subtrees of an inclusion path (section 2.1.3.1), from the leaf to the root.

    Raises ValueError if the tree has no leaf of this index.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    ranges = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _left_size(end - start)
        if index < middle:
            ranges.append(range(middle, end))
            end = middle
        else:
            ranges.append(range(start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old_size: int, new_size: int) -> list[range]:
    """Return the subtrees of a consistency path (section 2.1.4.1), in the order of the path.

    The path from an empty tree, or to a tree of the same size, is empty. Raises ValueError if the
    new tree is smaller than the old one.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError(f"a tree of {new_size} leaves does not continue one of {old_size}")
    if old_size in {0, new_size}:
        return []
    ranges = []
    start, end = 0, new_size
    while end != old_size:
        middle = start + _left_size(end - start)
        if old_size <= middle:
            ranges.append(range(middle, end))
            end = middle
        else:
            ranges.append(range(start, middle))
            start = middle
    if start:  # otherwise this subtree is the old tree, and its root is known
        ranges.append(range(start, end))
    return ranges[::-1]


def subtree_roots(ranges: Sequence[range], leaf_hashes: Iterable[bytes]) -> list[bytes]:
    """Return the roots of ranges that do not overlap. leaf_hashes are those from leaf 0 on.

    Leaves after the last range are not read. Raises ValueError if there are too few.
    """
    leaves, position = iter(leaf_hashes), 0
    roots: dict[int, bytes] = {}
    for leaves_of_root in sorted(ranges, key=lambda each: each.start):
        deque(islice(leaves, leaves_of_root.start - position), maxlen=0)
        edge = edge_of(islice(leaves, len(leaves_of_root)))
        if edge.size != len(leaves_of_root):
            raise ValueError("leaves are missing")
        roots[leaves_of_root.start] = edge.root()
        position = leaves_of_root.stop
    return [roots[each.start] for each in ranges]


def edge_of(leaf_hashes: Iterable[bytes]) -> RightEdge:
    """Return the tree of these leaves, of which only a block at a time is in memory."""
    leaves = iter(leaf_hashes)
    blocks = RightEdge(0, ())
    while len(block := list(islice(leaves, _BLOCK))) == _BLOCK:
        blocks = blocks.append(merkle_root(block))
    rest = RightEdge.of(block)
    return RightEdge(blocks.size * _BLOCK + rest.size, blocks.hashes + rest.hashes)


def root_of_inclusion(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root to which an inclusion path leads from a leaf (section 2.1.3.2).

    Raises WrongProof if a tree of this size has no such path.
    """
    if not 0 <= index < size:
        raise WrongProof(f"a tree of {size} leaves has no leaf {index}")
    number, last, root = index, size - 1, leaf_hash
    for sibling in path:
        if last == 0:
            raise WrongProof("the inclusion path is too long")
        if number % 2 or number == last:
            root = hash_children(sibling, root)
            number, last = _next_left(number, last)
        else:
            root = hash_children(root, sibling)
        number, last = number // 2, last // 2
    if last:
        raise WrongProof("the inclusion path is too short")
    return root


def check_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Raise WrongProof unless a path shows that a tree continues an older one (section 2.1.4.2)."""
    if not 0 <= old_size <= new_size:
        raise WrongProof(f"a tree of {new_size} leaves does not continue one of {old_size}")
    if old_size in {0, new_size}:
        empty = merkle_root(())
        is_right = old_root == new_root if old_size == new_size else old_root == empty
        if path or not is_right:
            raise WrongProof
        return
    hashes = iter(path if old_size.bit_count() != 1 else (old_root, *path))
    first = next(hashes, None)
    if first is None:
        raise WrongProof("the consistency path is too short")
    if _consistent_roots(old_size, new_size, first, hashes) != (old_root, new_root):
        raise WrongProof


def _consistent_roots(
    old_size: int, new_size: int, first: bytes, hashes: Iterator[bytes]
) -> tuple[bytes, bytes]:
    """Return the roots of the old and of the new tree, to which a consistency path leads."""
    number, last = old_size - 1, new_size - 1
    while number % 2:
        number, last = number // 2, last // 2
    old_root = new_root = first
    for sibling in hashes:
        if last == 0:
            raise WrongProof("the consistency path is too long")
        if number % 2 or number == last:
            old_root = hash_children(sibling, old_root)
            new_root = hash_children(sibling, new_root)
            number, last = _next_left(number, last)
        else:
            new_root = hash_children(new_root, sibling)
        number, last = number // 2, last // 2
    if last:
        raise WrongProof("the consistency path is too short")
    return old_root, new_root


def _next_left(number: int, last: int) -> tuple[int, int]:
    """Go up to the first node that has a left sibling, as the tree's last node may skip levels."""
    while number and not number % 2:
        number, last = number // 2, last // 2
    return number, last


def _left_size(size: int) -> int:
    """Return the largest power of two that is smaller than size."""
    return 1 << (size - 1).bit_length() - 1
