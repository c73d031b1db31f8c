"""What stands charged, and what is held, by the tables."""

from typing import Any

from sqlalchemy import Engine, func, select

from models import Reservation, Usage
from valetkey.wire.refusals import Metric, Window
from worker.db.engine import read_transaction


def charged(engine: Engine, window: Window = "hour", metric: Metric = "grants") -> int:
    """What was charged in all windows of a kind."""
    query = select(func.sum(getattr(Usage, metric))).where(Usage.window == window)
    with read_transaction(engine) as connection:
        return int(connection.scalar(query) or 0)


def reserved(engine: Engine) -> list[tuple[int, int, int]]:
    """The chunk, items and grants of each row that is held."""
    query = select(Reservation.chunk, Reservation.items, Reservation.grants).order_by(
        Reservation.batch, Reservation.chunk
    )
    with read_transaction(engine) as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def count_rows(engine: Engine, table: Any) -> int:
    """How many rows a table has."""
    with read_transaction(engine) as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)
