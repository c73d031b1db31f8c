from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import Connection, Engine, make_url, text

from tests.integration.base.conftest import EndConnection
from worker.base.database_engine import (
    acquire_advisory_lock,
    autocommit_read,
    create_database_engine,
    read_transaction,
    snapshot_transaction,
    write_transaction,
)
from worker.base.inserts import insert_rows
from worker.errors import Transient

OpenConnection = Callable[[Engine], AbstractContextManager[Connection]]
_PID = text("SELECT pg_backend_pid()")


@pytest.mark.parametrize("open_connection", [autocommit_read, read_transaction, write_transaction])
def test_an_idle_connection_that_the_server_ended_is_replaced(
    postgres: Engine, end_connection: EndConnection, open_connection: OpenConnection
) -> None:
    with open_connection(postgres) as connection:
        pid = connection.scalar(_PID)
    end_connection(pid)
    with open_connection(postgres) as connection:
        assert connection.scalar(_PID) != pid


@pytest.mark.parametrize(("in_url", "milliseconds"), [("", "60000"), ("tcp_user_timeout=7", "7")])
def test_a_server_whose_network_is_gone_is_given_up_in_a_minute_unless_the_url_says_otherwise(
    postgres_database: str, in_url: str, milliseconds: str
) -> None:
    url = make_url(postgres_database).update_query_string(in_url)
    engine = create_database_engine(url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        driver: Any = connection.connection.dbapi_connection
        options = driver.info.get_parameters()
    engine.dispose()
    assert options["tcp_user_timeout"] == milliseconds
    assert (options["connect_timeout"], options["keepalives_idle"]) == ("10", "30")


def wait_in_transaction(engine: Engine, locks: Engine) -> None:
    """Hold a lock in a transaction until the other engine has it."""
    with write_transaction(engine) as connection:
        acquire_advisory_lock(connection, "acme")
        with write_transaction(locks) as other:
            acquire_advisory_lock(other, "acme")
        connection.scalar(_PID)


def test_a_transaction_of_a_worker_that_hangs_releases_its_locks(
    postgres: Engine, postgres_database: str
) -> None:
    hanging = create_database_engine(postgres_database, idle_timeout=1)
    with pytest.raises(Transient):
        wait_in_transaction(hanging, postgres)
    with write_transaction(hanging) as connection:
        acquire_advisory_lock(connection, "acme")
    hanging.dispose()


@pytest.mark.parametrize("open_connection", [read_transaction, snapshot_transaction])
def test_a_transaction_that_reads_may_be_idle(
    postgres_database: str, open_connection: OpenConnection
) -> None:
    engine = create_database_engine(postgres_database, idle_timeout=1)
    with open_connection(engine) as connection:
        shown = connection.scalar(text("SHOW idle_in_transaction_session_timeout"))
    engine.dispose()
    assert shown == "0"


def test_a_connection_is_reused_while_the_server_keeps_it(postgres: Engine) -> None:
    pids = set()
    for open_connection in (autocommit_read, read_transaction, write_transaction) * 3:
        with open_connection(postgres) as connection:
            pids.add(connection.scalar(_PID))
    assert len(pids) == 1


def test_a_statement_sees_earlier_commits_whatever_the_default_isolation_level_is(
    postgres_database: str, server: psycopg.Connection
) -> None:
    server.execute(
        sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'").format(
            sql.Identifier(str(make_url(postgres_database).database))
        )
    )
    engine = create_database_engine(postgres_database)
    with write_transaction(engine) as connection:
        assert connection.scalar(text("SHOW transaction_isolation")) == "read committed"
    engine.dispose()


def test_a_connection_that_ends_while_rows_are_copied_raises_a_transient_error(
    postgres: Engine, end_connection: EndConnection
) -> None:
    with write_transaction(postgres) as connection:
        connection.execute(text("CREATE TABLE numbers (number int)"))

    def copy(*, is_terminated: bool) -> int:
        with write_transaction(postgres) as connection:
            if is_terminated:
                end_connection(connection.scalar(_PID))
            insert_rows(connection, "numbers", ("number",), [(1,), (2,)])
            return int(connection.scalar(text("SELECT sum(number) FROM numbers")) or 0)

    with pytest.raises(Transient):
        copy(is_terminated=True)
    assert copy(is_terminated=False) == 3


def test_waiting_too_long_for_a_lock_raises_a_transient_error(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.base.database_engine.LOCK_TIMEOUT", 0.1)
    engine = create_database_engine(postgres_database)
    with write_transaction(engine) as connection:
        acquire_advisory_lock(connection, "acme/1")
        with write_transaction(engine) as other:
            acquire_advisory_lock(other, "acme/2")
        with pytest.raises(Transient), write_transaction(engine) as other:
            acquire_advisory_lock(other, "acme/1")
    with write_transaction(engine) as other:
        acquire_advisory_lock(other, "acme/1")
    engine.dispose()
