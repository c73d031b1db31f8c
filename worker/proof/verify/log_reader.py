"""Reads the rows of one state of the audit log with the driver itself."""

import sqlite3
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection
from sqlalchemy.engine import make_url

from worker.base.database_engine import LOCK_TIMEOUT, POSTGRES_OPTIONS, sqlite_path
from worker.shared.pages import did_you_mean

Row = tuple[Any, ...]

_BLOCK = 2_000  # the rows that a server sends at once
_CANNOT_CREATE = ("unable to open", "readonly database")


class LogReader:
    """Reads one state of a SQLite database. Statements have `?` for each parameter.

    `select` returns the rows of these tenants only, or of all if there are none.
    """

    dialect = "sqlite"

    def __init__(self, connection: Any, tenants: tuple[str, ...]) -> None:
        self._connection = connection
        self.tenants = tenants

    def fetch(self, statement: str, *params: Any) -> list[Row]:
        """Return all rows of a query."""
        return list(self.stream(statement, *params))

    def stream(self, statement: str, *params: Any) -> Iterator[Row]:
        """Yield the rows of a query, with few of them in memory at once."""
        # Not from the cursor itself: a generator that is not exhausted would close it, which fails
        # after the connection was closed.
        yield from islice(self._connection.execute(statement, params), None)

    def select(self, columns: str, source: str, condition: str, rest: str = "") -> Iterator[Row]:
        """Yield the rows of the selected tenants.

        The list of their ids replaces {} in the condition, which is left out without them. rest
        continues it, or orders the rows.
        """
        ids = ", ".join("?" * len(self.tenants))
        condition = condition.format(f"({ids})") if ids else "1 = 1"
        statement = f"SELECT {columns} FROM {source} WHERE {condition} {rest}"  # noqa: S608 - no value
        return self.stream(statement, *self.tenants)

    def by_bytes(self, column: str) -> str:
        """Return a column of texts in the order of their bytes."""
        return column

    def hex(self, column: str) -> str:
        """Return the hexadecimal text of a column of bytes."""
        return f"lower(hex({column}))"

    def close(self) -> None:
        """End the transaction and the connection."""
        self._connection.close()


class _PostgresReader(LogReader):
    dialect = "postgresql"

    def __init__(self, connection: Any, tenants: tuple[str, ...]) -> None:
        super().__init__(connection, tenants)
        self._streams = 0

    def stream(self, statement: str, *params: Any) -> Iterator[Row]:
        self._streams += 1
        with self._connection.cursor(name=f"valetkey_{self._streams}") as cursor:
            cursor.execute(statement.replace("?", "%s"), params, binary=True)
            while block := cursor.fetchmany(_BLOCK):
                yield from block

    def by_bytes(self, column: str) -> str:
        return f'{column} COLLATE "C"'

    def hex(self, column: str) -> str:
        return f"encode({column}, 'hex')"


def reader_of(connection: Connection) -> LogReader:
    """Return a reader for an open transaction, which must be a snapshot. The caller ends it."""
    reader = _PostgresReader if connection.dialect.name == "postgresql" else LogReader
    return reader(connection.connection.driver_connection, ())


def _connect(url: str) -> Any:
    # Imported for PostgreSQL alone: it takes as long as to verify 100,000 rows.
    import psycopg  # noqa: PLC0415
    from psycopg import sql  # noqa: PLC0415

    parsed = make_url(url).set(drivername="postgresql+psycopg")
    # Not as a URL: libpq decodes other characters of names and passwords than SQLAlchemy.
    _, arguments = parsed.get_dialect()().create_connect_args(parsed)
    options: dict[str, Any] = {**POSTGRES_OPTIONS, **arguments}
    connection = psycopg.connect(**options)
    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    connection.read_only = True
    connection.execute(sql.SQL("SET lock_timeout = {}").format(f"{LOCK_TIMEOUT}s"))
    return connection


def open_reader(url: str, tenants: tuple[str, ...] = ()) -> LogReader:
    """Open a database for reading. Raises the driver's errors.

    Of a SQLite database, nothing is written, not even beside its file.
    """
    path = sqlite_path(url)
    if path is None:
        return _PostgresReader(_connect(url), tenants)
    return LogReader(_open_file(path), tenants)


def _open_file(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(str(path.absolute()))}?mode=ro"
    try:
        return _begin(uri)
    except sqlite3.OperationalError as error:
        # SQLite keeps an index beside a file in WAL mode, which a folder that cannot be written
        # does not allow. Such a copy is read as it is, unless a part of it is still in the WAL.
        wal = path.with_name(f"{path.name}-wal")
        is_complete = not (wal.exists() and wal.stat().st_size)
        if not (is_complete and any(words in str(error) for words in _CANNOT_CREATE)):
            raise
        return _begin(f"{uri}&immutable=1")


def _begin(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=LOCK_TIMEOUT)
    connection.text_factory = _decode_text
    try:
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # fixes the state
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def _decode_text(data: bytes) -> str | bytes:
    """Return a text, or the bytes of a value that is none: they are reported with their row."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


_FIRST = "~1"


class UnknownTenant(Exception):
    """No tenant has, or had, this name."""


def tenant_ids(reader: LogReader, name: str) -> tuple[str, ...]:
    """Return the ids of all tenants that had a name, or the one with this id.

    NAME~1 is the first tenant of a name, whose id is the name. Raises UnknownTenant.
    """
    rows = reader.fetch("SELECT id, name FROM tenant_identities")
    ids = {id_ for id_, _ in rows}
    if name.endswith(_FIRST) and (first := name.removesuffix(_FIRST)) in ids:
        return (first,)
    found = {id_ for id_, tenant in rows if name in {id_, tenant}}
    if found:
        return tuple(sorted(found))
    known_names = {*ids, *(tenant for _, tenant in rows)}
    raise UnknownTenant(f"there is no tenant {name!r}{did_you_mean(name, known_names)}")
