"""Sees every statement, whether SQLAlchemy runs it or the driver at once."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from sqlalchemy import Engine, event

from worker.base import database_engine


@contextmanager
def before_statements(engine: Engine, see: Callable[[str], None]) -> Iterator[None]:
    """Call a function with each statement before it is run, until the block ends."""
    execute = database_engine.run_in_driver

    def see_and_execute(connection: Any, statement: str, *values: Any) -> Any:
        see(statement)
        return execute(connection, statement, *values)

    def see_from_sqlalchemy(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        see(statement)

    event.listen(engine, "before_cursor_execute", see_from_sqlalchemy)
    try:
        with patch.object(database_engine, "run_in_driver", see_and_execute):
            yield
    finally:
        event.remove(engine, "before_cursor_execute", see_from_sqlalchemy)
