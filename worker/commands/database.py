"""The database as commands open it: with a sentence, not a traceback, where it cannot be used."""

import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import click
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

import models
from worker.db.engine import create_database_engine
from worker.errors import Transient
from worker.settings import Settings


def operator_account() -> str:
    """The account that runs this process: of the system, and not what the environment says."""
    number = os.getuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:  # a container may run as a number that nobody gave a name
        return f"uid {number}"


def alembic_config(connection: Connection) -> Config:
    """Tell Alembic where the migrations are and which connection they run on."""
    config = Config()
    config.set_main_option("script_location", str(Path(models.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def migrate_to_head(database_url: str) -> None:
    """Bring a database's tables to this release; one that is there already is left alone."""
    engine = create_database_engine(database_url)
    with engine.connect() as connection:
        command.upgrade(alembic_config(connection), "head")
    engine.dispose()


@click.command()
def migrate() -> None:
    """Create or update the tables of VALETKEY_DATABASE_URL."""
    migrate_to_head(Settings().database_url.get_secret_value())
    click.echo("The database is up to date.")


@contextmanager
def open_database(
    transaction: Callable[[Engine], AbstractContextManager[Connection]],
) -> Iterator[Connection]:
    """Open VALETKEY_DATABASE_URL with `database.reading` or `database.writing`.

    Ends the command where it is out of reach, or has not the tables of this release yet.
    """
    engine = create_database_engine(Settings().database_url.get_secret_value())
    try:
        with transaction(engine) as connection:
            if _is_behind(connection):
                raise click.ClickException(
                    "The database does not have its tables yet: run `python -m worker migrate`."
                )
            yield connection
    except Transient as error:
        raise click.ClickException(f"Nothing was done: {error}.") from None
    finally:
        engine.dispose()


def _is_behind(connection: Connection) -> bool:
    # A revision that is not ours is a later release's, which leaves our tables usable.
    scripts = ScriptDirectory.from_config(alembic_config(connection))
    at = MigrationContext.configure(connection).get_current_revision()
    older = {script.revision for script in scripts.walk_revisions()} - set(scripts.get_heads())
    return at is None or at in older
