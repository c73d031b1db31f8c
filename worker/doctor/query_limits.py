"""Limits of what doctor asks the database, and what keeps it from being written."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from worker.base.database_errors import FILE_READ_ONLY, READ_ONLY, Cause

# Of SQLite's virtual machine, between two looks at the clock: about a millisecond.
_SQLITE_STEPS = 10_000


@contextmanager
def limit_time(connection: Connection, end: float) -> Iterator[None]:
    """Cut off the statements of a block that still run at the time `end` of `time.monotonic`.

    They raise OperationalError, which the functions that open a transaction turn into Transient.
    The connection must be in a transaction that only reads.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        driver.set_progress_handler(lambda: time.monotonic() > end, _SQLITE_STEPS)
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


def write_problem(connection: Connection) -> Cause | None:
    """Return why a database refuses writes, None if nothing shows that it does.

    The server is a standby, or in the window of a failover; or the file is read-only.
    """
    if connection.dialect.name == "sqlite":
        file = Path(str(connection.engine.url.database))
        is_writable = os.access(file, os.W_OK) and os.access(file.parent, os.W_OK)
        return None if is_writable else FILE_READ_ONLY
    # Not transaction_read_only, which a transaction that only reads sets as well.
    is_standby = "pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean"
    return READ_ONLY if connection.exec_driver_sql(f"SELECT {is_standby}").scalar() else None
