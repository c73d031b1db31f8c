import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, Engine, TextClause, bindparam, insert, make_url, select, text
from sqlalchemy.exc import IntegrityError, OperationalError

from models import Cancellation, TreeHead
from tests.support.servers.databases import open_engine, url_text
from worker.base.database_engine import (
    DriverStatement,
    acquire_advisory_lock,
    autocommit_read,
    execute_in_driver,
    insert_rows,
    read_in_driver,
    read_transaction,
    snapshot_transaction,
    write_transaction,
)
from worker.doctor.query_limits import limit_time
from worker.errors import Transient

EndConnection = Callable[[object], object]


@pytest.fixture
def postgres(postgres_database: str) -> Iterator[Engine]:
    """An empty database on PostgreSQL."""
    with open_engine(postgres_database) as engine:
        yield engine


@pytest.fixture
def server(postgres_database: str) -> Iterator[psycopg.Connection]:
    """A connection to that database which can end other ones."""
    url = postgres_database.replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def end_connection(server: psycopg.Connection) -> EndConnection:
    """A function that lets the server end the connection with a process id."""
    return lambda pid: server.execute("SELECT pg_terminate_backend(%s, 5000)", (pid,))


OpenConnection = Callable[[Engine], AbstractContextManager[Connection]]
PID = "SELECT pg_backend_pid()"


@pytest.mark.parametrize("open_connection", [autocommit_read, read_transaction, write_transaction])
def test_an_idle_connection_that_the_server_ended_is_replaced(
    postgres: Engine, end_connection: EndConnection, open_connection: OpenConnection
) -> None:
    with open_connection(postgres) as connection:
        pid = connection.scalar(text(PID))
    end_connection(pid)
    with open_connection(postgres) as connection:
        assert connection.scalar(text(PID)) != pid


@pytest.mark.parametrize(("in_url", "milliseconds"), [("", "60000"), ("tcp_user_timeout=7", "7")])
def test_a_server_whose_network_is_gone_is_given_up_in_a_minute_unless_the_url_says_otherwise(
    postgres_database: str, in_url: str, milliseconds: str
) -> None:
    url = make_url(postgres_database).update_query_string(in_url)
    with open_engine(url_text(url)) as engine, engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        options = driver.info.get_parameters()
    assert options["tcp_user_timeout"] == milliseconds
    assert (options["connect_timeout"], options["keepalives_idle"]) == ("10", "30")


def wait_in_transaction(engine: Engine, locks: Engine) -> None:
    """Hold a lock in a transaction until the other engine has it."""
    with write_transaction(engine) as connection:
        acquire_advisory_lock(connection, "acme")
        with write_transaction(locks) as other:
            acquire_advisory_lock(other, "acme")
        connection.scalar(text(PID))


def test_a_transaction_of_a_worker_that_hangs_releases_its_locks(
    postgres: Engine, postgres_database: str
) -> None:
    with open_engine(postgres_database, idle_timeout=1) as hanging:
        with pytest.raises(Transient):
            wait_in_transaction(hanging, postgres)
        with write_transaction(hanging) as connection:
            acquire_advisory_lock(connection, "acme")


@pytest.mark.parametrize("open_connection", [read_transaction, snapshot_transaction])
def test_a_transaction_that_reads_may_be_idle(
    postgres_database: str, open_connection: OpenConnection
) -> None:
    with (
        open_engine(postgres_database, idle_timeout=1) as engine,
        open_connection(engine) as connection,
    ):
        shown = connection.scalar(text("SHOW idle_in_transaction_session_timeout"))
    assert shown == "0"


def test_a_connection_is_reused_while_the_server_keeps_it(postgres: Engine) -> None:
    pids = set()
    for open_connection in (autocommit_read, read_transaction, write_transaction) * 3:
        with open_connection(postgres) as connection:
            pids.add(connection.scalar(text(PID)))
    assert len(pids) == 1


def test_a_statement_sees_earlier_commits_whatever_the_default_isolation_level_is(
    postgres_database: str, server: psycopg.Connection
) -> None:
    server.execute(
        sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'").format(
            sql.Identifier(str(make_url(postgres_database).database))
        )
    )
    with open_engine(postgres_database) as engine, write_transaction(engine) as connection:
        assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"


def test_a_connection_that_ends_while_rows_are_copied_raises_a_transient_error(
    postgres: Engine, end_connection: EndConnection
) -> None:
    with write_transaction(postgres) as connection:
        connection.execute(text("CREATE TABLE numbers (number int)"))

    def copy(*, is_terminated: bool) -> int:
        with write_transaction(postgres) as connection:
            if is_terminated:
                end_connection(connection.scalar(text(PID)))
            insert_rows(connection, "numbers", ("number",), [(1,), (2,)])
            return int(connection.scalar(text("SELECT sum(number) FROM numbers")) or 0)

    with pytest.raises(Transient):
        copy(is_terminated=True)
    assert copy(is_terminated=False) == 3


def test_waiting_too_long_for_a_lock_raises_a_transient_error(
    postgres: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.base.database_engine.LOCK_TIMEOUT", 0.1)
    with write_transaction(postgres) as connection:
        acquire_advisory_lock(connection, "acme/1")
        with write_transaction(postgres) as other:
            acquire_advisory_lock(other, "acme/2")
        with pytest.raises(Transient), write_transaction(postgres) as other:
            acquire_advisory_lock(other, "acme/1")
    with write_transaction(postgres) as other:
        acquire_advisory_lock(other, "acme/1")


INSERT = DriverStatement(insert(Cancellation))
FIND = DriverStatement(
    select(Cancellation.tenant, Cancellation.reason, Cancellation.cancelled_at).where(
        Cancellation.cancelled_at == bindparam("moment")
    )
)
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
VALUES = {
    "tenant": "acme",
    "batch_id": "1",
    "signing_key": None,
    "requested_by": "test",
    "reason": "100 % über",
    "cancelled_at": NOON.astimezone(timezone(timedelta(hours=5))),
}


def test_values_are_converted_as_the_types_of_their_columns_say(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        assert INSERT.run(connection, VALUES) == []
        (row,) = FIND.run(connection, {"moment": NOON})
    assert (row.tenant, row.reason, row.cancelled_at) == ("acme", "100 % über", NOON)
    assert row.cancelled_at.tzinfo is UTC


def test_a_row_that_breaks_a_constraint_raises_sqlalchemys_error_without_the_values(
    engine: Engine,
) -> None:
    statement = DriverStatement(insert(TreeHead))
    values = {"tenant": "acme", "size": None, "edge": b""}
    with write_transaction(engine) as connection:
        with pytest.raises(IntegrityError) as raised:
            statement.run(connection, values)
        assert raised.value.params is None
        connection.rollback()


def test_a_connection_that_ends_in_a_transaction_raises_a_transient_error(
    postgres: Engine, end_connection: EndConnection
) -> None:
    def end_and_go_on() -> None:
        with write_transaction(postgres) as connection:
            end_connection(execute_in_driver(connection, PID).fetchone()[0])
            execute_in_driver(connection, PID)

    with pytest.raises(Transient):
        end_and_go_on()
    with write_transaction(postgres) as connection:
        assert execute_in_driver(connection, PID).fetchone()


def test_a_connection_that_ends_while_it_reads_is_dropped_without_a_traceback(
    postgres: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Transient):
        read_in_driver(postgres, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert caplog.text == ""
    assert read_in_driver(postgres, PID)


def test_reading_a_database_without_its_tables_raises_a_transient_error() -> None:
    with open_engine("sqlite://") as engine, pytest.raises(Transient):
        read_in_driver(engine, "SELECT revision FROM config_revisions")


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
