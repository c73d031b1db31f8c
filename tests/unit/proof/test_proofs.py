"""Tests inclusion and consistency proofs, against roots by the definition of RFC 9162."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.crypto.merkle_vectors import slow_root
from worker.ledger.merkle import NO_LEAVES, RightEdge, hash_leaf
from worker.proof import merkle_proofs
from worker.proof.merkle_proofs import WrongProof

SIZES = st.integers(1, 200)


def leaves(size: int) -> list[bytes]:
    return [hash_leaf(number.to_bytes(2)) for number in range(size)]


def inclusion_path(hashes: list[bytes], index: int) -> list[bytes]:
    return merkle_proofs.subtree_roots(merkle_proofs.inclusion_ranges(index, len(hashes)), hashes)


def consistency_path(hashes: list[bytes], old_size: int) -> list[bytes]:
    return merkle_proofs.subtree_roots(
        merkle_proofs.consistency_ranges(old_size, len(hashes)), hashes
    )


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8 % len(data)] ^= 1 << bit % 8
    return bytes(changed)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 63, 64, 65, 200])
def test_every_leaf_has_a_path_to_the_root(size: int) -> None:
    hashes = leaves(size)
    root = slow_root(hashes)
    for index, leaf in enumerate(hashes):
        path = inclusion_path(hashes, index)
        assert merkle_proofs.root_of_inclusion(leaf, index, size, path) == root


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 63, 64, 65, 200])
def test_every_older_tree_has_a_path_to_the_newer_one(size: int) -> None:
    hashes = leaves(size)
    root = slow_root(hashes)
    for old in range(1, size + 1):
        path = consistency_path(hashes, old)
        merkle_proofs.check_consistency(old, slow_root(hashes[:old]), size, root, path)


@given(st.data(), SIZES)
def test_a_changed_inclusion_proof_fails(data: st.DataObject, size: int) -> None:
    hashes = leaves(size)
    index = data.draw(st.integers(0, size - 1))
    path = inclusion_path(hashes, index)
    values = [hashes[index], *path]
    changed = data.draw(st.integers(0, len(values) - 1))
    values[changed] = flipped(values[changed], data.draw(st.integers(0, 255)))
    root = merkle_proofs.root_of_inclusion(values[0], index, size, values[1:])
    assert root != slow_root(hashes)


@given(st.data(), st.integers(2, 200))
def test_a_path_proves_no_other_leaf(data: st.DataObject, size: int) -> None:
    hashes = leaves(size)
    index, other = data.draw(
        st.lists(st.integers(0, size - 1), min_size=2, max_size=2, unique=True)
    )
    path = inclusion_path(hashes, index)
    try:
        root = merkle_proofs.root_of_inclusion(hashes[index], other, size, path)
    except WrongProof:
        return
    assert root != slow_root(hashes)


@given(st.data(), st.integers(2, 200))
def test_a_changed_consistency_proof_fails(data: st.DataObject, size: int) -> None:
    hashes = leaves(size)
    old = data.draw(st.integers(1, size - 1))
    values = [slow_root(hashes[:old]), slow_root(hashes), *consistency_path(hashes, old)]
    changed = data.draw(st.integers(0, len(values) - 1))
    values[changed] = flipped(values[changed], data.draw(st.integers(0, 255)))
    with pytest.raises(WrongProof):
        merkle_proofs.check_consistency(old, values[0], size, values[1], values[2:])


@given(st.data(), st.integers(2, 200), st.sampled_from([-1, 1]))
def test_a_path_of_another_length_fails(data: st.DataObject, size: int, more: int) -> None:
    hashes = leaves(size)
    old = data.draw(st.integers(1, size - 1))
    paths = inclusion_path(hashes, old), consistency_path(hashes, old)
    inclusion, consistency = ([*path, path[0]] if more > 0 else path[:-1] for path in paths)
    with pytest.raises(WrongProof):
        merkle_proofs.root_of_inclusion(hashes[old], old, size, inclusion)
    with pytest.raises(WrongProof):
        merkle_proofs.check_consistency(
            old, slow_root(hashes[:old]), size, slow_root(hashes), consistency
        )


def test_an_empty_tree_is_continued_by_any_other_without_a_path() -> None:
    merkle_proofs.check_consistency(0, NO_LEAVES.root(), 3, slow_root(leaves(3)), [])
    with pytest.raises(WrongProof):
        merkle_proofs.check_consistency(0, slow_root(leaves(1)), 3, slow_root(leaves(3)), [])


def test_trees_of_the_same_size_are_consistent_only_if_they_are_equal() -> None:
    root = slow_root(leaves(3))
    merkle_proofs.check_consistency(3, root, 3, root, [])
    for other, path in ((hash_leaf(b""), []), (root, [root])):
        with pytest.raises(WrongProof):
            merkle_proofs.check_consistency(3, root, 3, other, path)


@pytest.mark.parametrize(("old", "new"), [(4, 3), (-1, 3)])
def test_a_shorter_tree_continues_nothing(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="does not continue"):
        merkle_proofs.consistency_ranges(old, new)
    with pytest.raises(WrongProof):
        merkle_proofs.check_consistency(old, hash_leaf(b""), new, hash_leaf(b""), [])


@pytest.mark.parametrize("index", [-1, 3])
def test_a_leaf_outside_of_the_tree_has_no_path(index: int) -> None:
    with pytest.raises(ValueError, match="has no leaf"):
        merkle_proofs.inclusion_ranges(index, 3)
    with pytest.raises(WrongProof):
        merkle_proofs.root_of_inclusion(hash_leaf(b""), index, 3, [])


def test_missing_leaves_are_noticed() -> None:
    with pytest.raises(ValueError, match="leaves are missing"):
        merkle_proofs.subtree_roots(merkle_proofs.inclusion_ranges(0, 8), leaves(7))


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 5000])
def test_a_stream_of_leaves_gives_the_same_tree_as_their_list(size: int) -> None:
    hashes = leaves(size)
    edge = NO_LEAVES.extend(iter(hashes))
    assert (edge.size, edge.root()) == (size, RightEdge.of(hashes).root())
