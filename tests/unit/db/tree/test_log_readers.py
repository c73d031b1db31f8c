"""A reader of SQLite returns every value as it is stored, also one that is no text."""

import sqlite3
from contextlib import closing
from pathlib import Path

from worker.db.tree.log_readers import open_reader

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
