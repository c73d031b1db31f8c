"""Stored rows are read as what was written, and another spelling of it is refused."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.ledger.merkle import items_edge
from worker.proof.verify.chunk_check import Items
from worker.proof.verify.log_reader import open_reader
from worker.proof.verify.stored_rows import CHUNK, WrongValue, read_instant, read_json

_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=6,
)
CHUNK_ROW: dict[str, Any] = {
    "batch_number": 7,
    "chunk_number": 0,
    "fingerprint": bytes(32),
    "issued": 1,
    "refused": 0,
    "issued_at": "2026-11-27 07:00:00.000001",
    "expires_in": 300,
    "limited_by": "policy",
    "access_key": None,
    "refusal": '{"code": "\\u00fc"}',
    "signing_key": None,
    "key_thumbprint": None,
    "config_change": 7,
}
DIGEST = bytes(32)
ROWS = 5_000


def test_a_row_is_read_with_every_column_of_its_table() -> None:
    moment = datetime(2026, 11, 27, 7, 0, 0, 1, tzinfo=UTC)
    expected = CHUNK_ROW | {"issued_at": moment, "refusal": {"code": "ü"}}
    assert CHUNK.read(tuple(CHUNK_ROW.values())) == expected


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("issued", "1"),
        ("issued", 1.0),
        ("issued", None),
        ("fingerprint", "00" * 32),
        ("limited_by", b"policy"),
        ("access_key", 7),
        ("refusal", b"{}"),
        ("issued_at", None),
        ("issued_at", 2026),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_column(column: str, value: Any) -> None:
    with pytest.raises(WrongValue, match=column):
        CHUNK.read(tuple((CHUNK_ROW | {column: value}).values()))


@given(st.datetimes(min_value=datetime(1000, 1, 1)))  # noqa: DTZ001 - as SQLite stores it
def test_a_stored_moment_is_read(moment: datetime) -> None:
    stored = moment.isoformat(" ", "microseconds")
    assert read_instant("at", stored) == moment.replace(tzinfo=UTC)


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
def test_another_spelling_of_a_moment_is_refused(value: Any) -> None:
    with pytest.raises(WrongValue):
        read_instant("at", value)


@given(_JSON.filter(lambda content: content is not None))
def test_stored_json_is_read(content: Any) -> None:
    assert read_json("terms", json.dumps(content)) == content


@pytest.mark.parametrize("value", [1, 1.5])
def test_a_number_in_a_column_of_json_is_read_as_sqlite_stores_it(value: float) -> None:
    assert read_json("detail", value) == value


@pytest.mark.parametrize(
    "value",
    [
        *(
            "null",
            "{",
            '{"a":1}',
            '{"size": 01}',
            "NaN",
            "Infinity",
            '"\\ud8"',
            '"ü"',
            "[" * 100_000,
        ),
        *(b"{}", float("inf"), float("nan"), "9" * 5000),
    ],
)
def test_another_spelling_of_json_is_refused(value: Any) -> None:
    with pytest.raises(WrongValue):
        read_json("detail", value)


def test_items_have_the_tree_of_their_records_and_the_sum_of_the_sizes_that_were_issued() -> None:
    rows = [
        (7, 0, "k", None, '{"size": 5}', DIGEST),
        (7, 1, "k", None, None, DIGEST),
        (7, 2, "k", "key_invalid", '{"size": 9}', None),
        (7, 3, "k", None, '{"filename": "\\u00fc"}', DIGEST),
    ]
    items = Items("download", rows, [])
    details = [{"size": 5}, None, {"size": 9}, {"filename": "ü"}]
    assert items.edge() == items_edge(
        (row[1], row[2], row[3], detail, row[5]) for row, detail in zip(rows, details, strict=True)
    )
    assert (items.issued, items.sizes) == (3, 5)


@pytest.mark.parametrize(
    "row",
    [
        (7, 2, b"\xff", None, None, DIGEST),
        (7, 2, "\ud800", None, None, DIGEST),
        (7, 2, "k", 7, None, None),
        (7, 2, "k", "\ud800", None, None),
        (7, 2, "k", "key_invalid", "{", None),
        (7, 2, "k", "key_invalid", '{"a":1}', None),
        (7, 2, "k", None, b'{"size": 1}', DIGEST),
        (7, 2, "k", None, None, "d" * 32),
    ],
)
def test_the_first_item_that_cannot_be_read_is_named(row: tuple[Any, ...]) -> None:
    sound = [(7, number, "k", None, None, DIGEST) for number in range(2)]
    items = Items("download", [*sound, row, (7, 3, None, None, None, None)], [])
    with pytest.raises((ValueError, TypeError, AttributeError)):
        items.edge()
    assert items.number == 2


def test_a_value_that_is_no_text_is_read_as_its_bytes(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    wrong = {0, 2_500, 2_501, ROWS - 1}
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, a TEXT)")
        db.executemany("INSERT INTO t VALUES (?, ?)", [(n, f"ü{n}") for n in range(ROWS)])
        for n in wrong:
            db.execute("UPDATE t SET a = CAST(x'ff' AS TEXT) WHERE n = ?", (n,))
    statement = "SELECT n, a FROM t WHERE n >= ? ORDER BY n"
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        earlier = reader.stream("SELECT a FROM t WHERE n BETWEEN 1 AND 2499 ORDER BY n")
        first = next(earlier)
        rows = list(reader.stream(statement, 1))
        rest = list(earlier)
        again = reader.fetch(statement, 0)
    assert again == [(n, b"\xff" if n in wrong else f"ü{n}") for n in range(ROWS)]
    assert rows == again[1:]
    assert [first, *rest] == [(a,) for _, a in again[1:2_500]]
