"""The fast hashes of stored items are those of the records that issuing wrote."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.core.policy.decisions import GrantRow
from worker.core.tree.records import items_edge
from worker.usecases.audit.verification.items import Items, WrongItem

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_DETAIL = st.none() | st.dictionaries(
    _TEXT, _TEXT | st.integers(-(2**53), 2**53) | st.booleans() | st.none(), min_size=1
)
_DIGEST = st.binary(min_size=32, max_size=32)
_DECISION = st.tuples(st.none(), _DIGEST) | st.tuples(_TEXT, st.none())
DIGEST = bytes(32)


def stored(row: GrantRow) -> tuple[Any, ...]:
    detail = None if row.detail is None else json.dumps(row.detail)
    return (7, row.item_number, row.object_key, row.code, detail, row.digest)


@given(st.integers(0, 10**6), st.lists(st.tuples(_TEXT, _DECISION, _DETAIL), max_size=9))
def test_stored_items_have_the_hashes_of_their_records(
    first: int, values: list[tuple[str, tuple[str | None, bytes | None], dict[str, Any] | None]]
) -> None:
    rows = [
        GrantRow(number, key, code, detail, digest)
        for number, (key, (code, digest), detail) in enumerate(values, first)
    ]
    items = Items([stored(row) for row in rows], first)
    assert items.edge == items_edge(rows)
    assert items.issued == sum(row.code is None for row in rows)


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
    ],
)
def test_a_value_that_the_service_does_not_write_is_named(
    row: tuple[Any, ...], column: str
) -> None:
    with pytest.raises(WrongItem) as caught:
        Items([row], 0)
    assert (caught.value.item, caught.value.error.column) == (0, column)
