"""Reads the audit log with the driver itself, in one transaction that writes nothing."""

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

from sqlalchemy.engine import make_url

from worker.db.engine import LOCK_TIMEOUT, POSTGRES_OPTIONS, sqlite_path

Row = tuple[Any, ...]

_BLOCK = 2_000
_NOT_UTF8 = "Could not decode to UTF-8"
_CANNOT_CREATE = ("unable to open", "readonly database")


class LogReader(Protocol):
    """A connection that reads one state of the database.

    Statements have `?` for each parameter. snapshot lets another reader of the same server read the
    same state; it is None where each reader has a state of its own.
    """

    dialect: str
    snapshot: str | None

    def fetch(self, statement: str, *params: Any) -> list[Row]:
        """Return all rows of a query."""

    def stream(self, statement: str, *params: Any) -> Iterator[list[Row]]:
        """Yield the rows of a query, which has no LIMIT, in lists of some thousands."""

    def close(self) -> None:
        """End the transaction and the connection."""


def open_reader(url: str, snapshot: str | None = None, *, is_shared: bool = False) -> LogReader:
    """Open a database for reading.

    Of a SQLite database, nothing is written, not even beside its file. is_shared gives the reader
    of a PostgreSQL server a snapshot for further ones. Raises the driver's errors.
    """
    path = sqlite_path(url)
    if path is not None:
        return _SqliteReader(path)
    return _PostgresReader(url, snapshot, is_shared=is_shared)


class _SqliteReader:
    dialect = "sqlite"
    snapshot: str | None = None

    def __init__(self, path: Path) -> None:
        self._connection = _open_file(path)
        self._decodes_all = False

    def fetch(self, statement: str, *params: Any) -> list[Row]:
        return [row for block in self.stream(statement, *params) for row in block]

    def stream(self, statement: str, *params: Any) -> Iterator[list[Row]]:
        read = 0
        try:
            for block in self._blocks(statement, params):
                read += len(block)
                yield block
        except sqlite3.OperationalError as error:
            if self._decodes_all or _NOT_UTF8 not in str(error):
                raise
        else:
            return
        # A value is no text. A function that returns such values halves the rate, so it is used
        # from here on only. The transaction reads the same rows again in the same order.
        self._decodes_all = True
        self._connection.text_factory = _decode
        yield from self._blocks(f"{statement} LIMIT -1 OFFSET {read}", params)

    def _blocks(self, statement: str, params: tuple[Any, ...]) -> Iterator[list[Row]]:
        cursor = self._connection.execute(statement, params)
        try:
            while block := cursor.fetchmany(_BLOCK):
                yield block
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


def _decode(data: bytes) -> str | bytes:
    """Return a text, or the bytes of a value that is none: they are reported with their row."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


class _PostgresReader:
    dialect = "postgresql"

    def __init__(self, url: str, snapshot: str | None, *, is_shared: bool) -> None:
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
        if snapshot is not None:
            statement = sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot))
            self._connection.execute(statement)
        self.snapshot: str | None = None
        if is_shared:
            self.snapshot = self.fetch("SELECT pg_export_snapshot()")[0][0]

    def fetch(self, statement: str, *params: Any) -> list[Row]:
        return self._connection.execute(_with_markers(statement), params).fetchall()

    def stream(self, statement: str, *params: Any) -> Iterator[list[Row]]:
        self._streams += 1
        with self._connection.cursor(name=f"valetkey_{self._streams}") as cursor:
            cursor.execute(_with_markers(statement), params, binary=True)
            while block := cursor.fetchmany(_BLOCK):
                yield block

    def close(self) -> None:
        self._connection.close()


def _with_markers(statement: str) -> Any:
    return statement.replace("?", "%s")
