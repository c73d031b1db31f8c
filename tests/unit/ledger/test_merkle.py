import json
from datetime import UTC, datetime, timedelta, timezone
from hashlib import sha256
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from tests.support.crypto.merkle_vectors import LEAVES, ROOTS, slow_root
from worker.ledger.merkle import (
    RightEdge,
    dump_canonical,
    encode_record,
    entry_hash,
    hash_leaf,
    item_record,
    items_edge,
)
from worker.rules.annotations import SaltedTexts
from worker.rules.decisions import GrantRow

_HASHES = st.lists(st.binary(min_size=32, max_size=32), max_size=70)


@pytest.mark.parametrize("size", range(9))
def test_the_roots_are_those_of_the_published_vectors(size: int) -> None:
    assert RightEdge.of([hash_leaf(leaf) for leaf in LEAVES[:size]]).root().hex() == ROOTS[size]


@given(_HASHES.filter(bool))
def test_the_root_is_the_one_that_the_definition_gives(hashes: list[bytes]) -> None:
    assert RightEdge.of(hashes).root() == slow_root(hashes)


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


_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_ROWS = st.builds(
    GrantRow,
    st.integers(0, 10**6),
    _TEXT,
    st.none() | _TEXT,
    st.none() | st.dictionaries(_TEXT, _TEXT | st.integers(-(2**53) + 1, 2**53 - 1)),
    st.none() | st.binary(min_size=32, max_size=32),
)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | _TEXT,
    lambda values: st.lists(values, max_size=4) | st.dictionaries(_TEXT, values, max_size=4),
    max_leaves=12,
)


@given(_VALUES)
def test_json_in_a_record_has_the_bytes_of_rfc_8785(value: Any) -> None:
    assert dump_canonical(value).encode() == rfc8785.dumps(value)


def test_names_are_sorted_by_utf_16_units_and_not_by_code_points() -> None:
    last, first = "\uff5e", "\U0001f600"  # by code points, the order would be the other
    assert dump_canonical({last: 1, first: [{last: 2, first: 3}]}) == (
        f'{{"{first}":[{{"{first}":3,"{last}":2}}],"{last}":1}}'
    )


@given(_ROWS)
def test_the_record_of_an_item_is_canonical_json(row: GrantRow) -> None:
    digest = row.digest and row.digest.hex()
    values = {"item": row.item_number, "key": row.object_key, "digest": digest}
    values |= {"code": row.code, "detail": row.detail}
    present: Any = {name: value for name, value in values.items() if value is not None}
    assert item_record(row) == rfc8785.dumps(present)


def test_the_record_of_an_item_has_commitments_and_neither_texts_nor_salts() -> None:
    texts = SaltedTexts("ann", b"1" * 16, None, None, "mail-17", b"2" * 16)
    record = json.loads(item_record(GrantRow(0, "k", digest=bytes(32)), texts))
    assert record == {
        "digest": "00" * 32,
        "item": 0,
        "key": "k",
        "recipient": sha256(b"1" * 16 + b"ann").hexdigest(),
        "ref": sha256(b"2" * 16 + b"mail-17").hexdigest(),
    }


def test_an_erasure_changes_no_record() -> None:
    texts = {"requested_by": "ann", "requested_by_salt": b"1" * 16}
    commitment = sha256(b"1" * 16 + b"ann").digest()
    erased = {"requested_by": None, "requested_by_salt": commitment}
    assert encode_record("batch", texts) == encode_record("batch", erased)


def test_a_column_that_is_null_changes_no_record() -> None:
    assert encode_record("batch", {"a": 1, "added_later": None}) == encode_record("batch", {"a": 1})


def test_a_time_in_any_zone_is_recorded_in_utc() -> None:
    moment = datetime(2026, 11, 27, 1, 2, 3, tzinfo=timezone(timedelta(hours=1)))
    record = encode_record("batch", {"decided_at": moment})
    assert record == b'{"decided_at":"2026-11-27T00:02:03.000000Z","type":"batch"}'


def test_the_record_of_a_chunk_names_its_batch_by_tenant_and_id() -> None:
    values = {"batch_number": 7, "chunk_number": 1, "issued_at": datetime(2026, 1, 1, tzinfo=UTC)}
    assert json.loads(encode_record("chunk", values, tenant="acme", batch_id="id")) == {
        "type": "chunk",
        "tenant": "acme",
        "batch_id": "id",
        "chunk_number": 1,
        "issued_at": "2026-01-01T00:00:00.000000Z",
    }


@given(st.lists(_ROWS, max_size=9), st.lists(st.binary(), min_size=1, max_size=2))
def test_a_leaf_covers_the_items_first_and_then_the_other_records(
    rows: list[GrantRow], records: list[bytes]
) -> None:
    hashes = [hash_leaf(record) for record in (*map(item_record, rows), *records)]
    assert entry_hash(records, items_edge(rows)) == hash_leaf(RightEdge.of(hashes).root())
