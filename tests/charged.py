"""What stands charged, and what is held, by the tables."""

from typing import Any

from sqlalchemy import Engine, func, select

from models import Hold, Usage
from valetkey.refusals import Metric, Window
from worker.adapters.database import reading


def used(engine: Engine, window: Window = "hour", metric: Metric = "grants") -> int:
    """What was charged in all windows of a kind."""
    query = select(func.sum(getattr(Usage, metric))).where(Usage.window == window)
    with reading(engine) as connection:
        return int(connection.scalar(query) or 0)


def held(engine: Engine) -> list[tuple[int, int, int]]:
    """The chunk, items and grants of each row that is held."""
    query = select(Hold.chunk, Hold.items, Hold.grants).order_by(Hold.batch, Hold.chunk)
    with reading(engine) as connection:
        return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def count(engine: Engine, table: Any) -> int:
    """How many rows a table has."""
    with reading(engine) as connection:
        return int(connection.scalar(select(func.count()).select_from(table)) or 0)
