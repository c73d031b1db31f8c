from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.messages import MAX_BATCH_ITEMS
from worker.audit import key_lookup

POSITIONS = st.builds(
    key_lookup.Position, st.integers(1, (1 << 40) - 1), st.integers(0, MAX_BATCH_ITEMS - 1)
)
ROWS = st.lists(st.tuples(st.text("abc", min_size=1, max_size=2), POSITIONS), unique=True)


@given(rows=ROWS, bits=st.integers(0, 12))
def test_a_page_has_all_positions_of_its_keys(
    rows: list[tuple[str, key_lookup.Position]], bits: int
) -> None:
    pages = dict(
        key_lookup.divide_into_pages(
            sorted(key_lookup.make_entry(key, *at) for key, at in rows), bits
        )
    )
    for key, _ in rows:
        content = pages[key_lookup.page_of(key_lookup.hash_key(key), bits)]
        expected = sorted((at for other, at in rows if other == key), reverse=True)
        assert (
            list(key_lookup.newest_positions(content, key_lookup.hash_key(key), None)) == expected
        )
        older = [at for at in expected if at < expected[0]]
        assert (
            list(key_lookup.newest_positions(content, key_lookup.hash_key(key), expected[0]))
            == older
        )


@given(rows=ROWS, bits=st.integers(0, 12))
def test_pages_contain_all_entries_in_order(
    rows: list[tuple[str, key_lookup.Position]], bits: int
) -> None:
    stored = sorted(key_lookup.make_entry(key, *at) for key, at in rows)
    pages = list(key_lookup.divide_into_pages(stored, bits))
    assert [entry for _, content in pages for entry in key_lookup.split_page(content)] == stored
    numbers = [number for number, _ in pages]
    assert numbers == sorted(set(numbers))


def test_the_last_page_has_the_largest_hashes() -> None:
    entry = b"\xff" * 4 + bytes(8)
    assert list(key_lookup.divide_into_pages([entry], 3)) == [(7, entry)]


def test_a_page_of_a_large_segment_fits_into_a_row_of_postgresql() -> None:
    bits = key_lookup.page_bits_for(1_000_000)
    assert 1_000_000 / (1 << bits) * 12 < 2_000
    assert bits < key_lookup.HASH_BITS
