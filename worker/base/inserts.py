"""INSERT statements with ON CONFLICT, in the dialect of each database."""

from typing import Any

from sqlalchemy import Connection, literal
from sqlalchemy.dialects import postgresql, sqlite

from models.base import Base


def insert_once(connection: Connection, table: type[Base], values: dict[str, Any]) -> bool:
    """Insert a row unless its primary key exists, and return whether it was inserted.

    Waits for a concurrent transaction that inserts the same key.
    """
    statement = insert_statement(table, connection.dialect.name).on_conflict_do_nothing()
    return connection.execute(statement.returning(literal(1)), values).first() is not None


def insert_statement(table: type[Base], dialect: str) -> postgresql.Insert | sqlite.Insert:
    """Return the dialect's INSERT statement, to which the caller adds an ON CONFLICT clause."""
    return sqlite.insert(table) if dialect == "sqlite" else postgresql.insert(table)
