"""Stored rows are read with every column, and their fast records are those of issuing."""

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.ledger.merkle import chunk_record, encode_record
from worker.proof.verify.log_chunks import UNUSUAL, RecordEncoder
from worker.proof.verify.log_reader import (
    Reader,
    WrongValue,
    digest,
    instant,
    json_value,
    number,
    optional,
    read_row,
    text,
)
from worker.proof.verify.log_rows import BATCH, CHUNK

BATCHES = RecordEncoder("batch", BATCH)
CHUNKS = RecordEncoder("chunk", CHUNK, shared=("tenant", "batch_id"))
_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
_INSTANT = st.datetimes(min_value=datetime(1000, 1, 1)).map(  # noqa: DTZ001 - as SQLite stores it
    lambda moment: moment.isoformat(" ", "microseconds")
)
_REQUIRED: dict[Reader, st.SearchStrategy[Any]] = {
    text: _TEXT,
    number: st.integers(-(2**63), 2**63 - 1),
    digest: st.binary(min_size=32, max_size=32),
    instant: _INSTANT,
    json_value: _JSON.map(json.dumps),
}
_VALUES = _REQUIRED | {optional(reader): st.none() | each for reader, each in _REQUIRED.items()}
_JUNK = st.none() | st.binary(max_size=33) | _TEXT | st.floats() | _INSTANT.map(lambda t: t[:19])


def rows(columns: dict[str, Reader]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.tuples(*(_VALUES[reader] for reader in columns.values()))


@given(rows(BATCH))
def test_a_stored_batch_has_its_record(row: tuple[Any, ...]) -> None:
    values = read_row(BATCH, row)
    del values["batch_number"]
    assert BATCHES.encode(row) == encode_record("batch", values)


@given(rows(CHUNK), _TEXT, _TEXT)
def test_a_stored_chunk_has_its_record(row: tuple[Any, ...], tenant: str, batch_id: str) -> None:
    expected = chunk_record(tenant, batch_id, read_row(CHUNK, row))
    assert CHUNKS.encode((*row, tenant, batch_id)) == expected


@given(rows(BATCH), st.integers(1, len(BATCH) - 1), _JUNK)
def test_a_row_that_cannot_be_read_has_no_record(
    row: tuple[Any, ...], position: int, junk: Any
) -> None:
    changed = (*row[:position], junk, *row[position + 1 :])
    try:
        read_row(BATCH, changed)
    except WrongValue:
        with pytest.raises(UNUSUAL):
            BATCHES.encode(changed)


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-27 07:00:00.000000+00:00",
        "2026-11-27T07:00:00.000000",
        "2026-11-27 07:00:00",
        "2026-02-30 07:00:00.000000",
        None,
    ],
)
def test_another_spelling_of_a_moment_has_no_record(value: Any) -> None:
    with pytest.raises(UNUSUAL):
        RecordEncoder("a", {"at": instant}).encode((value,))


def test_a_column_after_the_type_is_refused() -> None:
    with pytest.raises(ValueError, match="follows the type"):
        RecordEncoder("a", {"zone": text})
