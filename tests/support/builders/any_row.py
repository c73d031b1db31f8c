"""Rows of any table, for tests that need a row and no certain values."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Insert, Table, insert

from models import Base

# The type of the times, models.base.Instant, does not name a Python type.
_ANY_VALUES = {int: 1, bool: False, str: "acme", bytes: bytes(32)}
_ANY_VALUES |= {object: datetime(2026, 11, 24, tzinfo=UTC)}


def insert_any(model: type[Base], **values: Any) -> Insert:
    """Return an INSERT of these values, and of others into the columns that need one."""
    table = model.__table__
    assert isinstance(table, Table)
    needed = [
        column
        for column in table.columns
        if not column.nullable and column is not table.autoincrement_column
    ]
    others = {column.name: _ANY_VALUES[column.type.python_type] for column in needed}
    return insert(table).values(others | values)
