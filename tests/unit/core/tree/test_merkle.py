import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.tree.merkle import RightEdge, hash_children, hash_leaf, merkle_root

# The leaves and roots of the test vectors of Certificate Transparency (RFC 6962), whose hashes
# RFC 9162 keeps.
_LEAVES = [
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
]
_ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
_HASHES = st.lists(st.binary(min_size=32, max_size=32), max_size=70)


def _slow_root(hashes: list[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    half = 1 << ((len(hashes) - 1).bit_length() - 1)
    return hash_children(_slow_root(hashes[:half]), _slow_root(hashes[half:]))


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_the_published_vectors(size: int) -> None:
    assert merkle_root([hash_leaf(leaf) for leaf in _LEAVES[:size]]).hex() == _ROOTS[size]


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
