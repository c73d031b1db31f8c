"""Inclusion and consistency proofs of RFC 9162: their paths, and the roots that follow from them.

A path consists of the roots of subtrees. Their ranges of leaves follow from numbers alone, so that
the leaves are read once, in order, and are never all in memory.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

from worker.ledger.merkle import NO_LEAVES, hash_children


class WrongProof(ValueError):
    """The path does not lead to the root."""


def inclusion_ranges(index: int, size: int, start: int = 0) -> list[range]:
    """Return the subtrees of an inclusion path (section 2.1.3.1), from the leaf to the root.

    Raises ValueError if the tree has no leaf of this index. start is the number of its first leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    if size == 1:
        return []
    left, end = _left_size(size), start + size
    if index < left:
        return [*inclusion_ranges(index, left, start), range(start + left, end)]
    rest = inclusion_ranges(index - left, size - left, start + left)
    return [*rest, range(start, start + left)]


def consistency_ranges(old_size: int, new_size: int) -> list[range]:
    """Return the subtrees of a consistency path (section 2.1.4.1), in the order of the path.

    The path from an empty tree, or to a tree of the same size, is empty. Raises ValueError if the
    new tree is smaller than the old one.
    """
    if not 0 <= old_size <= new_size:
        raise ValueError(f"a tree of {new_size} leaves does not continue one of {old_size}")
    return _consistency_ranges(old_size, range(new_size)) if old_size else []


def _consistency_ranges(old_size: int, tree: range) -> list[range]:
    if tree.stop == old_size:
        return [tree] if tree.start else []  # the root of the old tree is known
    middle = tree.start + _left_size(len(tree))
    left, right = range(tree.start, middle), range(middle, tree.stop)
    if old_size <= middle:
        return [*_consistency_ranges(old_size, left), right]
    return [*_consistency_ranges(old_size, right), left]


def subtree_roots(ranges: Sequence[range], leaf_hashes: Iterable[bytes]) -> list[bytes]:
    """Return the roots of ranges that do not overlap. leaf_hashes are those from leaf 0 on.

    Leaves after the last range are not read. Raises ValueError if there are too few.
    """
    leaves, position = iter(leaf_hashes), 0
    roots: dict[int, bytes] = {}
    for leaves_of_root in sorted(ranges, key=lambda each: each.start):
        deque(islice(leaves, leaves_of_root.start - position), maxlen=0)
        edge = NO_LEAVES.extend(islice(leaves, len(leaves_of_root)))
        if edge.size != len(leaves_of_root):
            raise ValueError("leaves are missing")
        roots[leaves_of_root.start] = edge.root()
        position = leaves_of_root.stop
    return [roots[each.start] for each in ranges]


def root_of_inclusion(leaf_hash: bytes, index: int, size: int, path: Sequence[bytes]) -> bytes:
    """Return the root to which an inclusion path leads from a leaf (section 2.1.3.2).

    Raises WrongProof if a tree of this size has no such path.
    """
    if not 0 <= index < size:
        raise WrongProof(f"a tree of {size} leaves has no leaf {index}")
    if size == 1:
        if path:
            raise WrongProof("the inclusion path is too long")
        return leaf_hash
    if not path:
        raise WrongProof("the inclusion path is too short")
    *rest, sibling = path
    left = _left_size(size)
    if index < left:
        return hash_children(root_of_inclusion(leaf_hash, index, left, rest), sibling)
    return hash_children(sibling, root_of_inclusion(leaf_hash, index - left, size - left, rest))


def check_consistency(
    old_size: int, old_root: bytes, new_size: int, new_root: bytes, path: Sequence[bytes]
) -> None:
    """Raise WrongProof unless a path shows that a tree continues an older one (section 2.1.4.2)."""
    if not 0 <= old_size <= new_size:
        raise WrongProof(f"a tree of {new_size} leaves does not continue one of {old_size}")
    if old_size == 0:
        is_right = not path and old_root == (new_root if new_size == 0 else NO_LEAVES.root())
    else:
        roots = _consistent_roots(old_size, new_size, path, old_root)
        is_right = roots == (old_root, new_root)
    if not is_right:
        raise WrongProof


def _consistent_roots(
    old_size: int, new_size: int, path: Sequence[bytes], old_root: bytes | None = None
) -> tuple[bytes, bytes]:
    """Return the roots of the old and of the new tree, to which a consistency path leads.

    old_root is that of the whole old tree, of a subtree None.
    """
    if old_size == new_size:
        known = [old_root, *path] if old_root is not None else path
        if len(known) != 1:
            raise WrongProof("the consistency path has another length")
        return known[0], known[0]
    if not path:
        raise WrongProof("the consistency path is too short")
    *rest, sibling = path
    left = _left_size(new_size)
    if old_size <= left:
        old, new = _consistent_roots(old_size, left, rest, old_root)
        return old, hash_children(new, sibling)
    old, new = _consistent_roots(old_size - left, new_size - left, rest)
    return hash_children(sibling, old), hash_children(sibling, new)


def _left_size(size: int) -> int:
    """Return the largest power of two that is smaller than size."""
    return 1 << (size - 1).bit_length() - 1
