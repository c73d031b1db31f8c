"""Inserts that each database has its own way for."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import psycopg
from sqlalchemy import Connection, literal
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

from models import Base


def insert_rows(
    connection: Connection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert many rows the fastest way each driver has: COPY, or executemany on SQLite.

    Values go to the driver as they are: what a column type would convert, the caller has converted.
    """
    names = ", ".join(f'"{column}"' for column in columns)
    is_sqlite = connection.dialect.name == "sqlite"
    if is_sqlite or len(rows) == 1:  # a COPY is three round trips
        marks = ", ".join(["?" if is_sqlite else "%s"] * len(columns))
        statement = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 - names from our own models
        connection.exec_driver_sql(statement, rows[0] if len(rows) == 1 else list(rows))
        return
    with _cursor(connection) as cursor, cursor.copy(f"COPY {table} ({names}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)


def _cursor(connection: Connection) -> psycopg.Cursor[Any]:
    driver = connection.connection.driver_connection
    if not isinstance(driver, psycopg.Connection):
        raise TypeError("PostgreSQL is spoken through psycopg 3 here")
    return driver.cursor()


def insert_once(connection: Connection, table: type[Base], values: dict[str, Any]) -> bool:
    """Insert a row and say so, or leave alone what has its key; waits for who inserts it now."""
    statement = _once(table, connection.dialect.name)
    return connection.execute(statement, values).first() is not None


@cache
def _once(table: type[Base], dialect: str) -> ReturningInsert[tuple[int]]:
    return upsert(table, dialect).on_conflict_do_nothing().returning(literal(1))


def upsert(table: type[Base], dialect: str) -> postgresql.Insert | sqlite.Insert:
    """Begin an insert that says what becomes of a row whose key is taken."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
