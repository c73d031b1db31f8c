"""One engine for either database, set up so that a commit is durable and a wait is bounded."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from worker.errors import Transient

LOCK_SECONDS = 10
_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    f"busy_timeout={LOCK_SECONDS}000",
)


def connect(url: str) -> Engine:
    """Make an engine for a SQLAlchemy URL. Make it after the fork: a connection cannot be shared.

    Parameters never appear in its errors, as keys and requesters stand in them.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return _sqlite(url)
    return create_engine(url, hide_parameters=True, pool_pre_ping=True, pool_size=2, max_overflow=2)


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
    # A plain BEGIN that reads and then writes fails with SQLITE_BUSY whatever the timeout; the
    # price of IMMEDIATE is that those who mean to write wait for each other from the start.
    deferred = connection.get_execution_options().get("read_only", False)
    connection.exec_driver_sql("BEGIN" if deferred else "BEGIN IMMEDIATE")


def writing(engine: Engine) -> AbstractContextManager[Connection]:
    """Open a transaction that commits when its block ends.

    A database that is away, locked too long or chose this transaction to end a deadlock raises
    Transient: nothing was written, or it cannot be known, and asking again is safe.
    """
    return _transaction(engine, read_only=False)


def reading(engine: Engine) -> AbstractContextManager[Connection]:
    """Open a transaction that only reads, and so waits for no writer."""
    return _transaction(engine, read_only=True)


@contextmanager
def _transaction(engine: Engine, *, read_only: bool) -> Iterator[Connection]:
    try:
        with engine.connect() as connection:
            connection.execution_options(read_only=read_only)
            with connection.begin():
                yield connection
    except (OperationalError, InterfaceError) as error:
        raise Transient("the database is out of reach") from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise Transient("the database went away") from error
        raise


def insert_rows(
    connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert many rows the fastest way each driver has: COPY, or executemany on SQLite.

    Values go to the driver as they are: what a column type would convert, the caller has converted.
    """
    names = ", ".join(f'"{column}"' for column in columns)
    if connection.dialect.name == "sqlite":
        marks = ", ".join("?" * len(columns))
        connection.exec_driver_sql(f"INSERT INTO {table} ({names}) VALUES ({marks})", list(rows))  # noqa: S608 - names from our own models
        return
    with _cursor(connection) as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _cursor(connection: Connection) -> psycopg.Cursor[Any]:
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("PostgreSQL is spoken through psycopg 3 here")
    return driver.cursor()
