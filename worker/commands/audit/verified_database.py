"""Names what is wrong with the database that `audit verify` reads, without heavy imports."""

from collections.abc import Iterator
from contextlib import contextmanager

import click

from worker.commands.database import known_revisions
from worker.db.engine import sqlite_path
from worker.db.tree.log_readers import open_reader

_NEW_TABLES = ("tree_heads", "prunes", "item_edges")  # the error about a missing one names it


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
        if any(table in str(error) for table in _NEW_TABLES):
            raise _unusable("old tables", url) from None
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


def refuse_later_tables(url: str) -> None:
    """Raise click.ClickException for columns that this release does not know: rows would differ."""
    reader = open_reader(url)
    try:
        revisions = {row[0] for row in reader.fetch("SELECT version_num FROM alembic_version")}
    finally:
        reader.close()
    if not revisions <= set(known_revisions()):
        raise _unusable("later tables", url)
