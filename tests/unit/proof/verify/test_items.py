"""The fast hashes of stored items are those of the records that issuing wrote."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.decisions import GrantRow
from worker.ledger.merkle import RightEdge, items_edge
from worker.proof.verify.log_chunks import Items, WrongItem

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_SIZE = st.integers(-(2**53), 2**53)
_DETAIL = (
    st.none()
    | st.fixed_dictionaries({"size": _SIZE})
    | st.dictionaries(_TEXT, _TEXT | _SIZE | st.booleans() | st.none(), min_size=1)
)
_DIGEST = st.binary(min_size=32, max_size=32)
_DECISION = st.tuples(st.none(), _DIGEST) | st.tuples(_TEXT, st.none())
DIGEST = bytes(32)


def stored(row: GrantRow) -> tuple[Any, ...]:
    detail = None if row.detail is None else json.dumps(row.detail)
    return (7, row.item_number, row.object_key, row.code, detail, row.digest)


def size_of(row: GrantRow) -> int:
    size = (row.detail or {}).get("size")
    return size if row.code is None and isinstance(size, int) else 0


@given(st.integers(0, 10**6), st.lists(st.tuples(_TEXT, _DECISION, _DETAIL), max_size=9))
def test_stored_items_have_the_hashes_of_their_records(
    first: int, values: list[tuple[str, tuple[str | None, bytes | None], dict[str, Any] | None]]
) -> None:
    rows = [
        GrantRow(number, key, code, detail, digest)
        for number, (key, (code, digest), detail) in enumerate(values, first)
    ]
    items = Items([stored(row) for row in rows], first)
    assert RightEdge.of(items.hashes) == items_edge(rows)
    assert items.issued == sum(row.code is None for row in rows)
    assert items.sizes == sum(size_of(row) for row in rows)


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ((7, 1, "k", None, None, DIGEST), "item_number"),
        ((7, 0, b"\xff", None, None, DIGEST), "object_key"),
        ((7, 0, "\ud800", None, None, DIGEST), "object_key"),
        ((7, 0, "k", None, None, None), "digest"),
        ((7, 0, "k", None, None, DIGEST[1:]), "digest"),
        ((7, 0, "k", "key_invalid", None, DIGEST), "digest"),
        ((7, 0, "k", 7, None, None), "code"),
        ((7, 0, "k", "key_invalid", "{", None), "detail"),
        ((7, 0, "k", "key_invalid", '{"a":1}', None), "detail"),
        ((7, 0, "k", None, '{"size": 01}', DIGEST), "detail"),
        ((7, 0, "k", None, b'{"size": 1}', DIGEST), "detail"),
        ((7, 0, "k", None, None, b""), "digest"),
        ((7, 0, "k", None, None, "d" * 32), "digest"),
        ((7, 0, "k", "\ud800", None, None), "code"),
    ],
)
def test_a_value_that_the_service_does_not_write_is_named(
    row: tuple[Any, ...], column: str
) -> None:
    with pytest.raises(WrongItem) as caught:
        Items([row], 0)
    assert (caught.value.item, caught.value.error.column) == (0, column)


def test_the_first_wrong_item_of_a_chunk_is_named() -> None:
    rows: list[Any] = [(7, number, "k", None, None, DIGEST) for number in range(600)]
    rows[300] = (7, 300, "k", None, None, None)
    rows[400] = (7, 400, "k", "key_invalid", None, None)
    with pytest.raises(WrongItem) as caught:
        Items(rows, 0)
    assert (caught.value.item, caught.value.error.column) == (300, "digest")


def test_a_number_in_a_detail_is_read_as_sqlite_stores_it() -> None:
    details: list[Any] = [1, 1.5]
    rows = [(7, 0, "k", "key_invalid", detail, None) for detail in details]
    hashes = [Items([row], 0).hashes for row in rows]
    expected = [GrantRow(0, "k", "key_invalid", detail) for detail in details]
    assert hashes == [[*items_edge([row]).hashes] for row in expected]
