"""Reads rows and values of the audit log with the driver itself, and collects their problems."""

import json
import math
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self
from urllib.parse import quote

from sqlalchemy.engine import make_url

from worker.base.database_engine import LOCK_TIMEOUT, POSTGRES_OPTIONS, sqlite_path
from worker.base.pages import did_you_mean
from worker.ledger.merkle import HASH_BYTES


class WrongValue(ValueError):
    """A value that its column cannot have, with the name of that column."""

    def __init__(self, column: str, problem: str) -> None:
        super().__init__(f"{column} {problem}")
        self.column = column
        self.problem = problem


Reader = Callable[[str, Any], Any]


def read_row(readers: Mapping[str, Reader], row: tuple[Any, ...]) -> dict[str, Any]:
    """Read a row's values, in the order of the readers. Raises WrongValue."""
    return {
        column: reader(column, value)
        for (column, reader), value in zip(readers.items(), row, strict=True)
    }


def text(column: str, value: Any) -> str:
    """Return a text. Raises WrongValue."""
    if not isinstance(value, str):
        raise WrongValue(column, "is no text")
    return value


def number(column: str, value: Any) -> int:
    """Return a whole number. Raises WrongValue."""
    if not isinstance(value, int):
        raise WrongValue(column, "is no whole number")
    return value


def binary(column: str, value: Any) -> bytes:
    """Return bytes. Raises WrongValue."""
    if not isinstance(value, bytes):
        raise WrongValue(column, "is no bytes")
    return value


def is_digest(value: Any) -> bool:
    """Return whether a value is a SHA-256."""
    return isinstance(value, bytes) and len(value) == HASH_BYTES


def digest(column: str, value: Any) -> bytes:
    """Return a SHA-256. Raises WrongValue."""
    if len(binary(column, value)) != HASH_BYTES:
        raise WrongValue(column, f"has {len(value)} bytes instead of {HASH_BYTES}")
    return bytes(value)


def instant(column: str, value: Any) -> datetime:
    """Return a moment in UTC, from the text in which SQLite stores it. Raises WrongValue."""
    try:
        moment = datetime.fromisoformat(text(column, value))
    except ValueError:
        raise WrongValue(column, "is no date and time") from None
    if moment.tzinfo is not None or moment.isoformat(" ", "microseconds") != value:
        raise WrongValue(column, "is not spelled as the service writes times")
    return moment.replace(tzinfo=UTC)


def json_value(column: str, value: Any) -> Any:
    """Return what a JSON text contains. Raises WrongValue.

    Another spelling of the same value is wrong, too: nobody but the service writes these texts.
    SQLite stores a number in such a column as a number.
    """
    if isinstance(value, int | float) and math.isfinite(value):
        return value
    try:
        content = _decode_json(text(column, value))
        is_spelled = json.dumps(content) == value
        if _SURROGATE in value:  # half of a pair is no Unicode text, and has no record
            json.dumps(content, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        if isinstance(error, WrongValue):
            raise
        raise WrongValue(column, "is no JSON") from None
    if not is_spelled:
        raise WrongValue(column, "is not spelled as the service writes JSON")
    return content


def _refuse(constant: str) -> None:
    raise ValueError(constant)


_decode_json = json.JSONDecoder(parse_constant=_refuse).decode
_SURROGATE = "\\ud"


@cache
def optional(reader: Reader) -> Reader:
    """Return the reader that also accepts NULL."""
    return lambda column, value: None if value is None else reader(column, value)


class Problem(NamedTuple):
    """A row that is not as it was written, and what is wrong with it.

    number is that of a leaf, of a config change or of an unknown batch, or the size of a
    checkpoint. Of what only a range of rows can be said, last_item or last_number ends the range.
    leaf is the number of the leaf from which the row differs.
    """

    table: str
    text: str
    tenant: str | None = None
    batch: str | None = None
    chunk: int | None = None
    item: int | None = None
    last_item: int | None = None
    column: str | None = None
    number: int | None = None
    last_number: int | None = None
    leaf: int | None = None

    @classmethod
    def of_value(cls, table: str, error: WrongValue, **place: Any) -> Self:
        """Return the problem of a value that cannot be read."""
        return cls(table, error.problem, column=error.column, **place)

    def __str__(self) -> str:
        parts = (
            ("tenant", self.tenant, None),
            ("batch", self.batch, None),
            ("chunk", self.chunk, None),
            ("item", self.item, self.last_item),
            (_NUMBERS.get(self.table, "number"), self.number, self.last_number),
            ("column", self.column, None),
        )
        place = ", ".join(_place(*part) for part in parts if part[1] is not None)
        return f"{self.table}: {place}: {self.text}" if place else f"{self.table}: {self.text}"


_NUMBERS = {
    "leaves": "leaf",
    "checkpoints": "size",
    "config_changes": "change",
    "tree_heads": "size",
}


def _place(name: str, first: str | int | None, last: int | None) -> str:
    return f"{name} {first}" if last is None or last == first else f"{name}s {first} to {last}"


class Found(Exception):
    """A problem; leaf is the tenant and the number of the leaf that the rows differ from."""

    def __init__(self, problem: Problem, leaf: tuple[str, int] | None = None) -> None:
        super().__init__(str(problem))
        self.problem = problem if leaf is None else problem._replace(leaf=leaf[1])
        self.leaf = leaf


@contextmanager
def problems_of(table: str, **place: Any) -> Iterator[None]:
    """Raise Found for a value of a table that cannot be read in the block."""
    try:
        yield
    except WrongValue as error:
        raise Found(Problem.of_value(table, error, **place)) from None


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
        self._connection.text_factory = _decode_text
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


def _decode_text(data: bytes) -> str | bytes:
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


class NamedRows(NamedTuple):
    """The rows with a key, a tenant and a reference, and the leaves that name this key.

    A leaf is its tenant, reference, number and hash.
    """

    tenant: Any
    reference: Any
    rows: list[Row]
    leaves: list[Row]


def stream_rows(reader: LogReader, statement: str, *params: Any) -> Iterator[Row]:
    """Yield the rows of a query one after the other."""
    return chain.from_iterable(reader.stream(statement, *params))


def stream_leaves(reader: LogReader, kind: str, tenants: tuple[str, ...]) -> Iterator[Row]:
    """Yield tenant, reference, number and hash of leaves, in the order of the first three."""
    where, params = where_tenant("tenant", tenants)
    first, second = ordered(reader, "tenant"), ordered(reader, "reference")
    return stream_rows(
        reader,
        "SELECT tenant, reference, leaf_number, hash FROM leaves "  # noqa: S608 - no value
        f"WHERE kind = '{kind}' AND reference IS NOT NULL AND {where} "
        f"ORDER BY {first}, {second}, leaf_number",
        *params,
    )


def ordered(reader: LogReader, column: str) -> str:
    """Return a column of texts in the order of their bytes, as SQLite has it."""
    return f'{column} COLLATE "C"' if reader.dialect == "postgresql" else column


def merge_by_key(rows: Iterator[Row], leaves: Iterator[Row]) -> Iterator[NamedRows]:
    """Put together rows and leaves by their first two columns, in whose order both are."""
    row, leaf = next(rows, None), next(leaves, None)
    while row is not None or leaf is not None:
        key = min((tuple(each[:2]) for each in (row, leaf) if each is not None), key=_sort_key)
        own_rows, own_leaves = list[Row](), list[Row]()
        while row is not None and row[:2] == key:
            own_rows.append(row)
            row = next(rows, None)
        while leaf is not None and leaf[:2] == key:
            own_leaves.append(leaf)
            leaf = next(leaves, None)
        yield NamedRows(key[0], key[1], own_rows, own_leaves)


def _sort_key(key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the key as SQLite sorts it, in which a text can be bytes."""
    return tuple((isinstance(value, bytes), value) for value in key)


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
