"""Reads what is charged and recorded for upload slots."""

from typing import Any

from sqlalchemy import Engine, select

from models import Usage
from worker.db.engine import read_transaction


def rows(engine: Engine, *columns: Any) -> list[tuple[Any, ...]]:
    """Return the values of columns of all rows."""
    with read_transaction(engine) as connection:
        return [tuple(row) for row in connection.execute(select(*columns))]


def charged(engine: Engine) -> int:
    """Return the upload bytes that are charged in all days together."""
    usage = rows(engine, Usage.window, Usage.upload_bytes)
    return sum(size for window, size in usage if window == "day")
