"""Names what is wrong with the database that `audit verify` reads, without heavy imports."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from worker.commands.database import tables_state
from worker.db.engine import sqlite_path
from worker.db.tree.log_readers import open_reader


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Name the cause of what goes wrong with the database in the block."""
    path = sqlite_path(url)
    if path is not None and not path.exists():
        raise _unusable("missing", url)
    try:
        yield
    except click.ClickException:
        raise
    except Exception as error:
        from worker.commands.failures.database_failures import describe_failure  # noqa: PLC0415

        failure = describe_failure(error, url)
        if failure is None:
            raise
        raise failure from None


def _unusable(state: str, url: str) -> click.ClickException:
    # Imported if it is needed: it imports all drivers.
    from worker.commands.failures.database_failures import (  # noqa: PLC0415
        STATES,
        database_unusable,
    )

    return database_unusable(STATES[state], url)


def refuse_other_tables(url: str) -> None:
    """Raise click.ClickException for the tables of another release: their rows would differ."""
    reader = open_reader(url)
    try:
        rows = list(reader.fetch("SELECT version_num FROM alembic_version"))
    finally:
        reader.close()
    state = tables_state(rows[0][0] if rows else None)
    if state is not None:
        raise _unusable(state, url)
