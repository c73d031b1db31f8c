"""INSERT statements in the dialect of each database."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, literal
from sqlalchemy.dialects import postgresql, sqlite

from models.base import Base
from worker.base.database_engine import execute_in_driver


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


def insert_once(connection: Connection, table: type[Base], values: dict[str, Any]) -> bool:
    """Insert a row unless its primary key exists, and return whether it was inserted.

    Waits for a concurrent transaction that inserts the same key.
    """
    statement = insert_statement(table, connection.dialect.name).on_conflict_do_nothing()
    return connection.execute(statement.returning(literal(1)), values).first() is not None


def insert_statement(table: type[Base], dialect: str) -> postgresql.Insert | sqlite.Insert:
    """Return the dialect's INSERT statement, to which the caller adds an ON CONFLICT clause."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
