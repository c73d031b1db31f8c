"""Bounds the time that reading the database takes."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil
from typing import Any

from sqlalchemy import Connection

_STEPS = 10_000  # of SQLite's virtual machine, between two looks at the clock: about a millisecond


@contextmanager
def limit_time(connection: Connection, end: float) -> Iterator[None]:
    """Cut off the statements of a block that still run at a moment of `time.monotonic`.

    They fail as in a database that is out of reach. The connection must be in a transaction that
    only reads.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        driver.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        try:
            yield
        finally:
            driver.set_progress_handler(None, 0)
        return

    # Each statement has a cursor of its own, whether SQLAlchemy runs it or DriverStatement.
    factories = driver.cursor_factory, driver.server_cursor_factory

    def limit(create_cursor: Callable[..., Any], *args: Any, **options: Any) -> Any:
        milliseconds = ceil((end - time.monotonic()) * 1_000)
        if milliseconds <= 0:  # 0 would be no limit
            raise connection.dialect.loaded_dbapi.OperationalError("the time is over")
        factories[0](driver).execute(f"SET LOCAL statement_timeout = {milliseconds}")
        return create_cursor(*args, **options)

    driver.cursor_factory, driver.server_cursor_factory = (partial(limit, f) for f in factories)
    try:
        yield
    finally:
        driver.cursor_factory, driver.server_cursor_factory = factories
