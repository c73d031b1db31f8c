import time
from collections.abc import Callable

import pytest
from sqlalchemy import Connection, Engine, TextClause, text
from sqlalchemy.exc import OperationalError

from worker.base.database_engine import execute_in_driver, limit_time, read_transaction
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


@pytest.mark.parametrize(
    "run_slow",
    [
        lambda connection: execute_in_driver(connection, str(SLOW)).fetchone(),
        lambda connection: connection.execute(SLOW, execution_options={"yield_per": 1}).all(),
    ],
    ids=["driver", "server cursor"],
)
def test_what_runs_in_the_driver_or_reads_row_by_row_is_cut_off_as_well(
    engine: Engine, run_slow: Callable[[Connection], object]
) -> None:
    end = time.monotonic() + 0.3
    with (
        pytest.raises(Transient),
        read_transaction(engine) as connection,
        limit_time(connection, end),
    ):
        run_slow(connection)
    assert 0 <= time.monotonic() - end < 10


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
def test_no_statement_begins_after_the_end(engine: Engine) -> None:
    with (
        read_transaction(engine) as connection,
        limit_time(connection, time.monotonic()),
        pytest.raises(OperationalError),
    ):
        connection.execute(FAST)


def test_a_connection_has_no_limit_afterwards(engine: Engine) -> None:
    run(engine, 0.5, FAST)
    with read_transaction(engine) as connection:  # the pool has one connection, which is the same
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            connection.execute(FAST)
        connection.execute(PART)
