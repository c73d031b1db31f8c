"""Reads usage, reservations and row counts from the tables."""

from typing import Any

from sqlalchemy import Engine, func, select

from models import Reservation, Usage
from valetkey.wire.refusals import Metric, Window
from worker.db.engine import read_transaction


def charged(engine: Engine, window: Window = "hour", metric: Metric = "grants") -> int:
    """Return the usage in all windows of a kind together."""
    query = select(func.sum(getattr(Usage, metric))).where(Usage.window == window)
    with read_transaction(engine) as connection:
        return int(connection.scalar(query) or 0)


def reserved(engine: Engine) -> list[tuple[int, int, int]]:
    """Return the chunk number, items and grants of each reservation."""
    query = select(Reservation.chunk_number, Reservation.items, Reservation.grants).order_by(
        Reservation.batch_number, Reservation.chunk_number
    )
    with read_transaction(engine) as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def count_rows(engine: Engine, table: Any) -> int:
    """Return the number of rows of a table."""
    with read_transaction(engine) as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)
