"""SQLAlchemy engines for SQLite and PostgreSQL, with durable commits and bounded waits.

Some statements go to the driver unchanged: for a statement of a few rows, SQLAlchemy's own work
takes several times as long as the driver's.
"""

import select
import sqlite3
from collections import namedtuple
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from sqlalchemy import URL, Connection, Dialect, Engine, Insert, Select, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, DisconnectionError, IntegrityError
from sqlalchemy.sql.dml import UpdateBase

from worker.base.database_errors import READ_ONLY, cause_by_code
from worker.base.private_files import create_private_file, create_private_folder
from worker.errors import Transient

if TYPE_CHECKING:  # SQLAlchemy imports the driver of a database, and no other
    import psycopg


_Convert = Callable[[Any], Any]
_Parameters = Sequence[Any] | Mapping[str, Any]


def execute_in_driver(connection: Connection, statement: str, values: _Parameters = ()) -> Any:
    """Run a statement in the driver's language, in the connection's transaction.

    Returns the driver's cursor. Raises SQLAlchemy's IntegrityError, and otherwise the driver's own
    errors, which the functions of worker.base.database_engine translate.
    """
    try:
        return run_in_driver(connection.connection.driver_connection, statement, values)
    except connection.dialect.loaded_dbapi.IntegrityError as error:
        raise IntegrityError(statement, None, error, hide_parameters=True) from error


def run_in_driver(driver: Any, statement: str, values: _Parameters = ()) -> Any:
    """Run a statement on a connection of the driver, and return the driver's cursor."""
    return driver.execute(statement, values) if values else driver.execute(statement)


def insert_rows(
    connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert many rows as fast as the driver can: with COPY, or with executemany on SQLite.

    The values go to the driver unchanged: the caller has applied the columns' type conversions.
    """
    names = ", ".join(f'"{column}"' for column in columns)
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite or len(rows) == 1:  # a COPY takes three round trips
        placeholders = ", ".join(["?" if is_sqlite else "%s"] * len(columns))
        statement = f"INSERT INTO {table} ({names}) VALUES ({placeholders})"  # noqa: S608 - names from our own models
        if len(rows) == 1:
            execute_in_driver(connection, statement, rows[0])
        else:
            connection.exec_driver_sql(statement, list(rows))
        return
    driver: Any = connection.connection.driver_connection
    with driver.cursor() as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


class DriverStatement:
    """A statement of SQLAlchemy that is compiled once for each dialect, and then run by the driver.

    Parameters and results are converted as the types of their columns say.
    """

    def __init__(self, statement: Select[*tuple[Any, ...]] | UpdateBase) -> None:
        self._statement = statement
        self._compiled: dict[str, _Compiled] = {}

    def run(self, connection: Connection, values: Mapping[str, Any]) -> list[Any]:
        """Run the statement with these parameters, and return its rows as named tuples.

        The names of the parameters are the same in every call.
        """
        compiled = self._compiled.get(connection.dialect.name)
        if compiled is None:
            compiled = _compile_statement(self._statement, connection.dialect, values)
            self._compiled[connection.dialect.name] = compiled
        cursor = execute_in_driver(connection, compiled.text, compiled.parameters(values))
        return compiled.rows(cursor)

    def run_each(self, connection: Connection, values: Sequence[Mapping[str, Any]]) -> list[Any]:
        """Run the statement for each of these parameters, and return the rows of all in order."""
        if len(values) == 1:
            return self.run(connection, values[0])
        result = connection.execute(self._statement, values) if values else None
        return list(result) if result is not None and result.returns_rows else []


class _Compiled(NamedTuple):
    text: str
    names: Sequence[str] | None
    fixed: Mapping[str, Any]
    bind: Mapping[str, _Convert]
    row: Callable[[Any], Any] | None
    read: Sequence[tuple[int, _Convert]]

    def parameters(self, values: Mapping[str, Any]) -> _Parameters:
        named = {**self.fixed, **values}
        for name, convert in self.bind.items():
            named[name] = convert(named[name])
        return named if self.names is None else [named[name] for name in self.names]

    def rows(self, cursor: Any) -> list[Any]:
        return [] if self.row is None else [self.row(self._converted(row)) for row in cursor]

    def _converted(self, row: Sequence[Any]) -> Sequence[Any]:
        values = list(row)
        for index, convert in self.read:
            values[index] = convert(values[index])
        return values


def _compile_statement(
    statement: Select[*tuple[Any, ...]] | UpdateBase, dialect: Dialect, values: Mapping[str, Any]
) -> _Compiled:
    # An INSERT names its columns by its parameters.
    names = list(values) if isinstance(statement, Insert) and statement.select is None else None
    compiled: Any = statement.compile(dialect=dialect, column_keys=names)
    types = {name: bind.type for name, bind in compiled.binds.items()}
    binds = {
        name: type_.dialect_impl(dialect).bind_processor(dialect) for name, type_ in types.items()
    }
    columns = statement.exported_columns
    row: Any = namedtuple("Row", [column.key for column in columns])  # type: ignore[misc]  # noqa: PYI024 - its fields vary
    reads = [
        column.type.dialect_impl(dialect).result_processor(dialect, None) for column in columns
    ]
    return _Compiled(
        text=str(compiled),
        names=compiled.positiontup if compiled.positional else None,
        fixed={name: bind.value for name, bind in compiled.binds.items() if not bind.required},
        bind={name: convert for name, convert in binds.items() if convert is not None},
        row=row._make if len(columns) else None,
        read=[(index, convert) for index, convert in enumerate(reads) if convert is not None],
    )


OLDEST_POSTGRES = 15
"""The oldest release of PostgreSQL with which the service is tested."""
LOCK_TIMEOUT = 10
IDLE_TIMEOUT = 30
"""The time in seconds after which PostgreSQL ends a writing transaction whose worker hangs.

A worker that is frozen, or whose network is gone, would keep its locks for hours: the head of a
tenant's tree, for which all other workers wait.
"""
CONNECT_TIMEOUT = 10
"""The time in seconds that a PostgreSQL server has to accept a connection."""

POSTGRES_OPTIONS = {
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,  # milliseconds
}
"""Options of libpq, unless the URL has others.

By default it waits for minutes to connect, and for hours for a server whose network is gone. A slow
query is not cut off: the kernel of the server acknowledges the packets meanwhile.
"""

_PRAGMAS: tuple[str, ...] = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "recursive_triggers=ON",  # else INSERT OR REPLACE deletes rows without firing DELETE triggers
    f"busy_timeout={LOCK_TIMEOUT}000",
)
# A reader may be slow, as storage is that it writes to; it keeps no other transaction waiting. A
# plan for any range of times or batches reads far too much for most of them.
_FOR_READERS = (
    "SET LOCAL idle_in_transaction_session_timeout = 0;"
    " SET LOCAL plan_cache_mode = force_custom_plan"
)
_Purpose = Literal["write", "read", "snapshot", "autocommit"]
# On SQLite a transaction that begins with a plain BEGIN, reads and then writes fails with
# SQLITE_BUSY whatever the timeout. The cost of IMMEDIATE is that writers wait for each other from
# the start. On PostgreSQL a statement after a lock has to see what was committed before the lock.
_BEGIN: dict[tuple[str, _Purpose], str] = {
    ("sqlite", "write"): "BEGIN IMMEDIATE",
    ("sqlite", "read"): "BEGIN",
    ("postgresql", "write"): "BEGIN ISOLATION LEVEL READ COMMITTED",
    ("postgresql", "read"): f"BEGIN ISOLATION LEVEL READ COMMITTED; {_FOR_READERS}",
    ("sqlite", "snapshot"): "BEGIN",
    ("postgresql", "snapshot"): f"BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY; {_FOR_READERS}",
}


def create_database_engine(url: str, *, idle_timeout: int = 0) -> Engine:
    """Create an engine for a SQLAlchemy URL.

    PostgreSQL ends a writing transaction that is idle for idle_timeout seconds; 0 is no limit.
    Create it after forking, because processes cannot share connections. Its errors contain no
    statement parameters, which include object keys and requesters.
    """
    if make_url(url).get_backend_name() == "sqlite":
        return _sqlite_engine(url)
    options: dict[str, Any] = {**POSTGRES_OPTIONS}
    if len(database_hosts(make_url(url))) > 1:
        options["target_session_attrs"] = "read-write"  # any, by default: also a standby
    in_url = make_url(url).query
    engine = create_engine(
        url,
        hide_parameters=True,
        pool_size=8,  # a thread opens one only if all others are in use
        max_overflow=0,  # such a connection would be closed after each use
        use_native_hstore=False,  # no table has one, and looking for it takes three round trips
        connect_args={name: v for name, v in options.items() if name not in in_url},
    )
    event.listen(engine, "connect", partial(_configure_postgres, idle_timeout))
    event.listen(engine, "checkout", _check_connection)
    event.listen(engine, "begin", _begin)
    return engine


def database_hosts(url: URL) -> list[str]:
    """Return the hosts of a PostgreSQL server, with the ports that its URL names."""
    options = url.get_dialect()().create_connect_args(url)[1]
    hosts = str(options.get("host") or "localhost").split(",")
    ports = str(options.get("port") or "").split(",")
    pairs = zip_longest(hosts, ports, fillvalue="")
    return [f"{host}:{port}" if port else host for host, port in pairs]


def load_driver(url: str) -> None:
    """Import the driver of a database, so that processes share it that are forked later."""
    make_url(url).get_dialect().import_dbapi()


def _configure_postgres(idle_timeout: int, connection: "psycopg.Connection", _record: Any) -> None:
    connection.autocommit = True  # _begin starts each transaction in the mode that it needs
    connection.execute(
        f"SET lock_timeout = '{LOCK_TIMEOUT}s';"
        f" SET idle_in_transaction_session_timeout = '{idle_timeout}s'"
    )


def _check_connection(connection: "psycopg.Connection", _record: Any, _proxy: Any) -> None:
    # A server that shuts down sends a notice. An idle connection with input is therefore dead, and
    # finding out costs no round trip. SQLAlchemy then connects again.
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    if poll.poll(0):
        raise DisconnectionError


def limit_lock_waits(connection: Connection, seconds: int) -> None:
    """Let a connection to PostgreSQL wait for locks for so long only, from now on.

    All workers wait behind a migration that waits for a table.
    """
    if connection.dialect.name == "postgresql":
        with connection.begin():
            connection.exec_driver_sql(f"SET lock_timeout = '{seconds}s'")


def sqlite_path(url: str) -> Path | None:
    """Return the path of a SQLite database, or None if it is in memory or on a server."""
    database = make_url(url).database
    is_file = database and database != ":memory:" and not database.startswith("file:")
    is_sqlite = make_url(url).get_backend_name() == "sqlite"
    return Path(database) if is_sqlite and database and is_file else None


def sqlite_files(url: str) -> list[Path]:
    """Return the files of a SQLite database that may exist."""
    path = sqlite_path(url)
    suffixes = ("", "-wal", "-shm", "-journal")
    return [path.with_name(path.name + suffix) for suffix in suffixes] if path else []


def _sqlite_engine(url: str) -> Engine:
    path = sqlite_path(url)
    if path is not None:
        create_private_folder(path.parent)
        create_private_file(path)  # SQLite gives its -wal and -shm files the same mode
    engine = create_engine(url, hide_parameters=True)
    event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "begin", _begin)
    return engine


def _configure_sqlite(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _begin(connection: Connection) -> None:
    purpose = connection.get_execution_options().get("purpose", "write")
    begin = _BEGIN.get((connection.dialect.name, purpose))
    if begin is not None:
        execute_in_driver(connection, begin)


@contextmanager
def _transaction(purpose: _Purpose, engine: Engine) -> Iterator[Connection]:
    with (
        _transient_errors(engine),
        engine.connect().execution_options(purpose=purpose) as connection,
        connection.begin(),
    ):
        yield connection


write_transaction = partial(_transaction, "write")
"""Opens a transaction that commits at the end of its block.

Raises Transient if the database is unreachable, read-only, full, locked for too long, without its
tables, or aborted the transaction to resolve a deadlock. Nothing was written, or that is unknown;
repeating the call is safe.
"""
read_transaction = partial(_transaction, "read")
"""Opens a transaction that only reads, and therefore waits for no writer."""
snapshot_transaction = partial(_transaction, "snapshot")
"""Opens a transaction that only reads, and in which all queries see the same rows."""
autocommit_read = partial(_transaction, "autocommit")
"""Opens a connection in autocommit mode, for a SELECT or a few of rows that do not change.

A transaction would double the cost of one.
"""


def read_in_driver(engine: Engine, statement: str) -> Any:
    """Return the first row of a SELECT in autocommit mode, at a fifth of autocommit_read's cost.

    Raises Transient if the database is unreachable.
    """
    with _transient_errors(engine), closing(engine.raw_connection()) as connection:
        try:
            return run_in_driver(connection.driver_connection, statement).fetchone()
        except Exception as error:
            connection.invalidate(error)
            raise


@contextmanager
def _transient_errors(engine: Engine) -> Iterator[None]:
    dbapi = engine.dialect.loaded_dbapi
    try:
        yield
    # What is not executed through SQLAlchemy, as COPY, raises the driver's own errors.
    except (DBAPIError, dbapi.Error) as error:
        from_driver = error.orig if isinstance(error, DBAPIError) else error
        is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
        is_outage = isinstance(from_driver, dbapi.OperationalError | dbapi.InterfaceError)
        cause = cause_by_code(from_driver)
        if cause is None and not is_lost and not is_outage:
            raise
        if cause is READ_ONLY:
            engine.dispose()  # its connections lead to a server that is no primary any more
        text = f"used: {cause.text}" if cause else "reached, or closed the connection"
        raise Transient(f"the database cannot be {text}", "database") from error


def acquire_advisory_lock(connection: Connection, name: str) -> None:
    """Take a lock by name, held until the transaction ends.

    Does nothing on SQLite, where write transactions exclude each other.
    """
    if connection.dialect.name != "sqlite":
        statement = "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))"
        execute_in_driver(connection, statement, (name,))
