"""Reads the rows of one state of the audit log with the driver itself."""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from sqlalchemy.engine import make_url

from worker.base.database_engine import LOCK_TIMEOUT, POSTGRES_OPTIONS, sqlite_path
from worker.base.pages import did_you_mean

Row = tuple[Any, ...]

_BLOCK = 2_000  # the rows that a server sends at once
_NOT_UTF8 = "Could not decode to UTF-8"
_CANNOT_CREATE = ("unable to open", "readonly database")


class LogReader(Protocol):
    """A connection that reads one state of the database. Statements have `?` for each parameter."""

    dialect: str

    def fetch(self, statement: str, *params: Any) -> list[Row]:
        """Return all rows of a query."""

    def stream(self, statement: str, *params: Any) -> Iterator[Row]:
        """Yield the rows of a query, which has no LIMIT, and of which few are in memory."""

    def close(self) -> None:
        """End the transaction and the connection."""


def open_reader(url: str) -> LogReader:
    """Open a database for reading. Raises the driver's errors.

    Of a SQLite database, nothing is written, not even beside its file.
    """
    path = sqlite_path(url)
    return _PostgresReader(url) if path is None else _SqliteReader(path)


class _SqliteReader:
    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        self._connection = _open_file(path)
        self._decodes_all = False

    def fetch(self, statement: str, *params: Any) -> list[Row]:
        return list(self.stream(statement, *params))

    def stream(self, statement: str, *params: Any) -> Iterator[Row]:
        read = 0
        try:
            for row in self._rows(statement, params):
                read += 1
                yield row
        except sqlite3.OperationalError as error:
            if self._decodes_all or _NOT_UTF8 not in str(error):
                raise
        else:
            return
        # A value is no text. A function that returns such values halves the rate, so it is used
        # from here on only. The transaction reads the same rows again in the same order.
        self._decodes_all = True
        self._connection.text_factory = _decode_text
        yield from self._rows(f"{statement} LIMIT -1 OFFSET {read}", params)

    def _rows(self, statement: str, params: tuple[Any, ...]) -> Iterator[Row]:
        cursor = self._connection.execute(statement, params)
        try:
            yield from cursor
        finally:
            with suppress(sqlite3.ProgrammingError):  # the reader was closed before
                cursor.close()

    def close(self) -> None:
        self._connection.close()


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


class _PostgresReader:
    dialect = "postgresql"

    def __init__(self, url: str) -> None:
        # Imported for PostgreSQL alone: it takes as long as to verify 100,000 rows.
        import psycopg  # noqa: PLC0415
        from psycopg import sql  # noqa: PLC0415

        parsed = make_url(url).set(drivername="postgresql+psycopg")
        # Not as a URL: libpq decodes other characters of names and passwords than SQLAlchemy.
        _, arguments = parsed.get_dialect()().create_connect_args(parsed)
        options: dict[str, Any] = {**POSTGRES_OPTIONS, **arguments}
        self._connection = psycopg.connect(**options)
        self._connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        self._connection.read_only = True
        self._connection.execute(sql.SQL("SET lock_timeout = {}").format(f"{LOCK_TIMEOUT}s"))
        self._streams = 0

    def fetch(self, statement: str, *params: Any) -> list[Row]:
        return self._connection.execute(_with_markers(statement), params).fetchall()

    def stream(self, statement: str, *params: Any) -> Iterator[Row]:
        self._streams += 1
        with self._connection.cursor(name=f"valetkey_{self._streams}") as cursor:
            cursor.execute(_with_markers(statement), params, binary=True)
            while block := cursor.fetchmany(_BLOCK):
                yield from block

    def close(self) -> None:
        self._connection.close()


def _with_markers(statement: str) -> Any:
    return statement.replace("?", "%s")


def where_tenant(column: str, tenants: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """Return a condition that selects the rows of tenants, or all, and the condition's values."""
    if not tenants:
        return "1 = 1", ()
    return f"{column} IN ({', '.join('?' * len(tenants))})", tenants


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
