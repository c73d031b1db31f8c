import sqlite3

from worker.proof.verify.log_reader import LogReader


def test_a_stream_that_is_not_exhausted_outlives_its_connection() -> None:
    reader = LogReader(sqlite3.connect(":memory:"), ())
    rows = reader.stream("SELECT 1 UNION SELECT 2")
    next(rows)
    reader.close()
    del rows  # as the garbage collector ends a generator
