"""One engine for either database, set up so that a commit is durable and a wait is bounded."""

import select
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError

from worker.errors import Transient

LOCK_TIMEOUT = 10
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"busy_timeout={LOCK_TIMEOUT}000",
)
_Meaning = Literal["to write", "to read", "one statement"]
# SQLite's plain BEGIN that reads and then writes fails with SQLITE_BUSY whatever the timeout; the
# price of IMMEDIATE is that those who mean to write wait for each other from the start. On
# PostgreSQL a lock helps only where a statement behind it sees what was committed by then.
_BEGIN: dict[tuple[str, _Meaning], str] = {
    ("sqlite", "to write"): "BEGIN IMMEDIATE",
    ("sqlite", "to read"): "BEGIN",
    ("postgresql", "to write"): "BEGIN ISOLATION LEVEL READ COMMITTED",
    ("postgresql", "to read"): "BEGIN ISOLATION LEVEL READ COMMITTED",
}


def create_database_engine(url: str) -> Engine:
    """Make an engine for a SQLAlchemy URL. Make it after the fork: a connection cannot be shared.

    Parameters never appear in its errors, as keys and requesters stand in them.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return _sqlite(url)
    engine = create_engine(url, hide_parameters=True, pool_size=2, max_overflow=2)
    event.listen(engine, "connect", _bound)
    event.listen(engine, "checkout", _renew)
    event.listen(engine, "begin", _begin)
    return engine


def _bound(connection: psycopg.Connection, _record: Any) -> None:
    connection.autocommit = True  # transactions are begun as their block means to use them
    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}s'")


def _renew(connection: psycopg.Connection, _record: Any, _proxy: Any) -> None:
    # A server that goes away says so, unasked: that can be seen without asking it each time, which
    # would cost a round trip. SQLAlchemy connects anew.
    said = select.poll()
    said.register(connection.fileno(), select.POLLIN)
    if said.poll(0):
        raise DisconnectionError


def _sqlite(url: str) -> Engine:
    database = make_url(url).database
    if database:
        Path(database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    engine = create_engine(url, hide_parameters=True)
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    meaning = connection.get_execution_options().get("meaning", "to write")
    begin = _BEGIN.get((connection.dialect.name, meaning))
    if begin is not None:
        connection.exec_driver_sql(begin)


def write_transaction(engine: Engine) -> AbstractContextManager[Connection]:
    """Open a transaction that commits when its block ends.

    A database that is away, locked too long or chose this transaction to end a deadlock raises
    Transient: nothing was written, or it cannot be known, and asking again is safe.
    """
    return _block(engine, "to write")


def read_transaction(engine: Engine) -> AbstractContextManager[Connection]:
    """Open a transaction that only reads, and so waits for no writer."""
    return _block(engine, "to read")


def autocommit_read(engine: Engine) -> AbstractContextManager[Connection]:
    """Read with one statement, which needs no transaction: to open one is as dear as to read."""
    return _block(engine, "one statement")


@contextmanager
def _block(engine: Engine, meaning: _Meaning) -> Iterator[Connection]:
    try:
        with engine.connect().execution_options(meaning=meaning) as connection, connection.begin():
            yield connection
    except (OperationalError, InterfaceError, psycopg.OperationalError) as error:
        raise Transient("the database is out of reach") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Transient("the database went away") from error
        raise


def advisory_lock(connection: Connection, name: str) -> None:
    """Hold off whoever locks the same name until the transaction ends.

    SQLite's writers exclude each other already.
    """
    if connection.dialect.name != "sqlite":
        statement = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
        connection.exec_driver_sql(statement, (name,))
