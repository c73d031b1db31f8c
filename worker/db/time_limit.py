"""Bounds the time that reading the database takes."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

_STEPS = 10_000  # of SQLite's virtual machine, between two looks at the clock: about a millisecond


@contextmanager
def limit_time(connection: Connection, end: float) -> Iterator[None]:
    """Cut off the statements of a block that still run at a moment of `time.monotonic`.

    They fail as in a database that is out of reach. The connection must be in a transaction that
    only reads.
    """
    if connection.dialect.name == "sqlite":
        driver: Any = connection.connection.driver_connection
        driver.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
        try:
            yield
        finally:
            driver.set_progress_handler(None, 0)
        return

    def set_timeout(statement_connection: Connection, *_: Any) -> None:
        milliseconds = max(int((end - time.monotonic()) * 1_000), 1)  # 0 would be no limit
        postgres: Any = statement_connection.connection.driver_connection
        postgres.execute(f"SET LOCAL statement_timeout = {milliseconds}")

    event.listen(connection, "before_cursor_execute", set_timeout)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", set_timeout)
