"""Changes stored rows behind the service's back, on both databases."""

import sqlite3
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

from models import Base
from worker.base.database_engine import sqlite_path

Row = dict[str, Any]

_TABLES = (
    *("batches", "chunks", "grants", "reissues", "cancellations", "config_changes", "revocations"),
    *("uses", "settlements", "leaves", "tree_heads", "checkpoints", "prunes", "item_edges"),
    *("refused_chunks", "annotations", "erasures"),
)
KEYS = {name: tuple(Base.metadata.tables[name].primary_key.columns.keys()) for name in _TABLES}
JSON = {"terms", "refusal", "detail", "before", "after", "notify"}
DatabaseRefuses = (sqlite3.Error, psycopg.Error, OverflowError)


class StoredTables:
    """A connection that no trigger stops. Close it to commit."""

    def __init__(self, url: str) -> None:
        path = sqlite_path(url)
        self.is_sqlite = path is not None
        if path is not None:
            self._connection: Any = sqlite3.connect(path, isolation_level=None)
            self.drop_triggers()
        else:
            parsed = make_url(url).set(drivername="postgresql")
            text = parsed.render_as_string(hide_password=False)
            self._connection = psycopg.connect(text, autocommit=True)
            self._connection.execute("SET session_replication_role = replica")

    def drop_triggers(self) -> None:
        names = self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")
        for (name,) in names.fetchall():
            self._connection.execute(f'DROP TRIGGER "{name}"')

    def close(self) -> None:
        self._connection.close()

    def execute(self, statement: str, *params: Any) -> list[Any]:
        if not self.is_sqlite:
            statement = statement.replace("?", "%s")
        cursor = self._connection.execute(statement, params)
        return cursor.fetchall() if cursor.description else []

    def columns(self, table: str) -> list[str]:
        if self.is_sqlite:
            return [row[1] for row in self.execute(f"PRAGMA table_info({table})")]
        query = (
            "SELECT column_name FROM information_schema.columns WHERE table_schema = 'public' "
            "AND table_name = ? ORDER BY ordinal_position"
        )
        return [row[0] for row in self.execute(query, table)]

    def rows(self, table: str, where: str = "1 = 1", *params: Any) -> list[Row]:
        """Return rows in the order of their key; JSON is its text."""
        columns = self.columns(table)
        names = ", ".join(self._read(column) for column in columns)
        order = ", ".join(KEYS[table])
        found = self.execute(f"SELECT {names} FROM {table} WHERE {where} ORDER BY {order}", *params)  # noqa: S608 - names of our own
        return [dict(zip(columns, row, strict=True)) for row in found]

    def _read(self, column: str) -> str:
        return f'"{column}"::text' if column in JSON and not self.is_sqlite else f'"{column}"'

    def _mark(self, column: str) -> str:
        return "?::json" if column in JSON and not self.is_sqlite else "?"

    def update(self, table: str, row: Row, **values: Any) -> None:
        """Change the row that has the key of the given one."""
        changes = ", ".join(f'"{column}" = {self._mark(column)}' for column in values)
        where, key = self._is_row(table, row)
        self.execute(f"UPDATE {table} SET {changes} WHERE {where}", *values.values(), *key)  # noqa: S608 - names of our own

    def delete(self, table: str, row: Row) -> None:
        where, key = self._is_row(table, row)
        self.execute(f"DELETE FROM {table} WHERE {where}", *key)  # noqa: S608 - names of our own

    def insert(self, table: str, row: Row) -> None:
        names = ", ".join(f'"{column}"' for column in row)
        marks = ", ".join(self._mark(column) for column in row)
        self.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", *row.values())  # noqa: S608 - names of our own

    def _is_row(self, table: str, row: Row) -> tuple[str, list[Any]]:
        names = KEYS[table]
        return " AND ".join(f"{name} = ?" for name in names), [row[name] for name in names]
