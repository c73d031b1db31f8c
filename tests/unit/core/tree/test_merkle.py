import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.crypto.merkle_vectors import LEAVES, ROOTS
from worker.core.tree.merkle import RightEdge, hash_children, hash_leaf, merkle_root

_HASHES = st.lists(st.binary(min_size=32, max_size=32), max_size=70)


def _slow_root(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    half = 1 << ((len(hashes) - 1).bit_length() - 1)
    return hash_children(_slow_root(hashes[:half]), _slow_root(hashes[half:]))


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_the_published_vectors(size: int) -> None:
    assert merkle_root([hash_leaf(leaf) for leaf in LEAVES[:size]]).hex() == ROOTS[size]


@given(_HASHES.filter(bool))
def test_the_root_is_the_one_that_the_definition_gives(hashes: list[bytes]) -> None:
    assert merkle_root(hashes) == _slow_root(hashes)


@given(_HASHES, _HASHES)
def test_appending_leaf_by_leaf_gives_the_tree_of_all_leaves(
    first: list[bytes], later: list[bytes]
) -> None:
    edge = RightEdge.of(first)
    for leaf in later:
        edge = edge.append(leaf)
    assert edge == RightEdge.of([*first, *later])


@given(_HASHES)
def test_a_stored_edge_is_read_back(hashes: list[bytes]) -> None:
    edge = RightEdge.of(hashes)
    assert RightEdge.from_bytes(edge.size, edge.to_bytes()) == edge


@pytest.mark.parametrize(("size", "data"), [(1, b""), (0, bytes(32)), (3, bytes(32)), (-1, b"")])
def test_an_edge_that_does_not_fit_its_size_is_refused(size: int, data: bytes) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        RightEdge.from_bytes(size, data)
