"""Ranges of batches have about as many items each, and readers of SQLite return what is stored."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from worker.proof.verify import log_rows
from worker.proof.verify.log_reader import open_reader
from worker.proof.verify.log_rows import BatchRange, CountedRange, read_ranges


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_rows, "_ITEMS_PER_RANGE", 10)


def ranges_of(folder: Path, chunks: Sequence[tuple[Any, Any]]) -> list[CountedRange]:
    """Divide batches, given by the numbers and items of their chunks."""
    path = folder / "log.db"
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE batches (batch_number INTEGER PRIMARY KEY)")
        db.execute("CREATE TABLE chunks (batch_number, issued, refused)")
        numbers = sorted({(number,) for number, _ in chunks})
        db.executemany("INSERT INTO batches VALUES (?)", numbers)
        db.executemany("INSERT INTO chunks VALUES (?, ?, 0)", chunks)
    with closing(open_reader(f"sqlite:///{path}")) as reader:
        return read_ranges(reader)


def test_ranges_cover_all_batch_numbers_and_have_about_as_many_items(tmp_path: Path) -> None:
    ranges = ranges_of(tmp_path, [(number, 3) for number in range(7, 107)])
    starts = [each.batches.first for each in ranges]
    assert starts == [None, *(each.batches.end for each in ranges[:-1])]
    assert ranges[-1].batches.end is None
    assert [each.items for each in ranges] == [12] * 25


def test_the_numbers_of_a_range_are_between_its_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_rows, "_MAX_RANGES", 9)
    numbers = range(-70, 90)
    ranges = ranges_of(tmp_path, [(number, 1) for number in numbers])
    for batches, items in ranges[:-1]:
        within = [
            number
            for number in numbers
            if (batches.first is None or batches.first <= number) and number < (batches.end or 0)
        ]
        assert len(within) == items >= 10


def test_a_range_with_a_large_batch_is_marked(tmp_path: Path) -> None:
    ranges = ranges_of(tmp_path, [(1, 9), (2, 50), (2, 50), (3, 9)])
    assert [(each.items, each.is_large) for each in ranges] == [(109, True), (9, False)]


@pytest.mark.parametrize("items", ["many", None, -5, 2**62])
def test_a_wrong_number_of_items_hides_no_batch(tmp_path: Path, items: Any) -> None:
    ranges = ranges_of(tmp_path, [(number, items) for number in range(2**61, 2**61 + 30)])
    assert ranges[0].batches.first is None
    assert ranges[-1].batches.end is None


def test_an_empty_log_has_one_range(tmp_path: Path) -> None:
    assert ranges_of(tmp_path, []) == [CountedRange(BatchRange(None, None), 0)]


def test_far_numbers_of_batches_give_few_ranges(tmp_path: Path) -> None:
    ranges = ranges_of(tmp_path, [(-(2**63), 20), (0, 20), (2**63 - 1, 20)])
    assert ranges[0].batches.first is None
    assert ranges[-1].batches.end is None


ROWS = 5_000


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
        rows = [row for block in reader.stream(statement, 1) for row in block]
        rest = [row for block in earlier for row in block]
        again = reader.fetch(statement, 0)
    assert again == [(n, b"\xff" if n in wrong else f"ü{n}") for n in range(ROWS)]
    assert rows == again[1:]
    assert [*first, *rest] == [(a,) for _, a in again[1:2_500]]
