from hypothesis import given
from hypothesis import strategies as st

from valetkey.wire.messages import MAX_BATCH_ITEMS
from worker.db.key_lookup.entries import (
    HASH_BITS,
    Position,
    divide_into_pages,
    hash_key,
    make_entry,
    newest_positions,
    page_bits_for,
    page_of,
    split_page,
)

POSITIONS = st.builds(Position, st.integers(1, (1 << 40) - 1), st.integers(0, MAX_BATCH_ITEMS - 1))
ROWS = st.lists(st.tuples(st.text("abc", min_size=1, max_size=2), POSITIONS), unique=True)


@given(rows=ROWS, bits=st.integers(0, 12))
def test_a_page_has_all_positions_of_its_keys(rows: list[tuple[str, Position]], bits: int) -> None:
    pages = dict(divide_into_pages(sorted(make_entry(key, *at) for key, at in rows), bits))
    for key, _ in rows:
        content = pages[page_of(hash_key(key), bits)]
        expected = sorted((at for other, at in rows if other == key), reverse=True)
        assert list(newest_positions(content, hash_key(key), None)) == expected
        older = [at for at in expected if at < expected[0]]
        assert list(newest_positions(content, hash_key(key), expected[0])) == older


@given(rows=ROWS, bits=st.integers(0, 12))
def test_pages_contain_all_entries_in_order(rows: list[tuple[str, Position]], bits: int) -> None:
    entries = sorted(make_entry(key, *at) for key, at in rows)
    pages = list(divide_into_pages(entries, bits))
    assert [entry for _, content in pages for entry in split_page(content)] == entries
    numbers = [number for number, _ in pages]
    assert numbers == sorted(set(numbers))


def test_the_last_page_has_the_largest_hashes() -> None:
    entry = b"\xff" * 4 + bytes(8)
    assert list(divide_into_pages([entry], 3)) == [(7, entry)]


def test_a_page_of_a_large_segment_fits_into_a_row_of_postgresql() -> None:
    bits = page_bits_for(1_000_000)
    assert 1_000_000 / (1 << bits) * 12 < 2_000
    assert bits < HASH_BITS
