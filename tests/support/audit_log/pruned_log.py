"""An audit log whose oldest month can be pruned."""

from collections.abc import Callable
from typing import Any

from click.testing import Result
from sqlalchemy import Engine, func, select, text

from models import Grant
from worker import clock as system_clock
from worker.base.database_engine import read_transaction, write_transaction
from worker.base.month_partitions import add_months, month_of

NOW = month_of(system_clock.now())
OLD = add_months(NOW, 1)  # the first month with a partition of its own
KEPT = add_months(NOW, 2)
RunPrune = Callable[..., Result]


def keys(engine: Engine) -> list[str]:
    with read_transaction(engine) as connection:
        return sorted(connection.scalars(select(Grant.object_key)))


def count(engine: Engine, table: Any) -> int:
    with read_transaction(engine) as connection:
        return connection.scalar(select(func.count()).select_from(table)) or 0


ALL = ["acme/a", "acme/c", "acme/kept", "elsewhere"]


def forget_checkpoints(engine: Engine) -> None:
    with write_transaction(engine) as connection:
        if engine.dialect.name == "sqlite":
            connection.execute(text("DROP TRIGGER checkpoints_no_delete"))
        else:
            connection.execute(text("ALTER TABLE checkpoints DISABLE TRIGGER append_only"))
        connection.execute(text("DELETE FROM checkpoints"))
