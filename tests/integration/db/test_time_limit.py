import time

import pytest
from sqlalchemy import Engine, TextClause, text

from worker.db.engine import read_transaction
from worker.db.time_limit import limit_time
from worker.errors import Transient


def count_rows(number: int) -> TextClause:
    numbers = f"SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {number}"  # noqa: S608
    return text(f"WITH RECURSIVE n(i) AS ({numbers}) SELECT count(*) FROM n")  # noqa: S608


SLOW = count_rows(10**9)  # a minute or more, unless it is cut off
PART = count_rows(100_000)
FAST = count_rows(1)


def run(engine: Engine, seconds: float, *statements: TextClause) -> None:
    end = time.monotonic() + seconds
    with read_transaction(engine) as connection, limit_time(connection, end):
        for statement in statements:
            connection.execute(statement)


def test_a_statement_is_cut_off_at_the_end_of_its_time(engine: Engine) -> None:
    begin = time.monotonic()
    with pytest.raises(Transient):
        run(engine, 0.3, SLOW)
    assert 0.3 <= time.monotonic() - begin < 10


def test_all_statements_share_the_time(engine: Engine) -> None:
    begin = time.monotonic()
    with pytest.raises(Transient):
        run(engine, 1, *[PART] * 1_000)
    assert 1 <= time.monotonic() - begin < 10


def test_a_connection_has_no_limit_afterwards(engine: Engine) -> None:
    run(engine, 0.5, FAST)
    with read_transaction(engine) as connection:  # the pool has one connection, which is the same
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            connection.execute(FAST)
        connection.execute(PART)
