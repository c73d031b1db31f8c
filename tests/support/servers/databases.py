"""New databases: empty ones, and copies of one that was migrated once.

Migrating takes ten times as long as copying, so tests of anything but migrations use a copy.
"""

import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, make_url, text
from sqlalchemy.pool import NullPool

from worker.base.database_engine import create_database_engine
from worker.base.private_files import create_private_file
from worker.cli.database import migrate_to_head

NewDatabase = Callable[[], AbstractContextManager[str]]


@cache
def _migrated_file() -> bytes:
    with tempfile.TemporaryDirectory(prefix="valetkey-template-") as folder:
        path = Path(folder) / "template.db"
        migrate_to_head(f"sqlite:///{path}")
        return path.read_bytes()


def migrated_file(path: Path) -> str:
    """Create a SQLite database with all tables at a path, and return its URL."""
    create_private_file(path)
    path.write_bytes(_migrated_file())
    return f"sqlite:///{path}"


@contextmanager
def migrated_temporary_file() -> Iterator[str]:
    """Create a SQLite database with all tables; delete it when the block ends."""
    with tempfile.TemporaryDirectory(prefix="valetkey-database-") as folder:
        yield migrated_file(Path(folder) / "valetkey.db")


@contextmanager
def open_engine(url: str, **options: Any) -> Iterator[Engine]:
    """Open a database with the options of create_database_engine until the block ends."""
    engine = create_database_engine(url, **options)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def fresh_database(server: str, template: str = "template1") -> Iterator[str]:
    """Create a database on a PostgreSQL server from a template; drop it when the block ends."""
    url, name = make_url(server), f"valetkey_{uuid.uuid4().hex}"
    execute_statements(url, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        yield url_text(url.set(database=name))
    finally:
        execute_statements(url, f"DROP DATABASE {name} WITH (FORCE)")


@contextmanager
def migrated_databases() -> Iterator[Callable[[str], NewDatabase]]:
    """Yield a function that takes a PostgreSQL server and returns a function for new databases.

    They have all tables: they are copies of a template, which is dropped when the block ends.
    """
    with ExitStack() as templates:

        @cache
        def of_server(server: str) -> NewDatabase:
            url = templates.enter_context(fresh_database(server))
            # The first test that needs it may have set another time, which decides the partitions.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("worker.clock.now", partial(datetime.now, UTC))
                migrate_to_head(url)
            return partial(fresh_database, server, str(make_url(url).database))

        yield of_server


def execute_statements(url: URL, *statements: str) -> None:
    """Execute statements that PostgreSQL does not allow in a transaction."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


def url_text(url: URL) -> str:
    """Return a database's URL with its password."""
    return url.render_as_string(hide_password=False)
