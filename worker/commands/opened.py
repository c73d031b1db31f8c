"""The database as commands open it: with a sentence, not a traceback, where it cannot be used."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import click
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine

from worker.adapters.database import connect
from worker.commands.migrate import configuration
from worker.errors import Transient
from worker.settings import Settings


@contextmanager
def opened(
    transaction: Callable[[Engine], AbstractContextManager[Connection]],
) -> Iterator[Connection]:
    """Open VALETKEY_DATABASE_URL with `database.reading` or `database.writing`.

    Ends the command where it is out of reach, or has not the tables of this release yet.
    """
    engine = connect(Settings().database_url.get_secret_value())
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
    scripts = ScriptDirectory.from_config(configuration(connection))
    at = MigrationContext.configure(connection).get_current_revision()
    older = {script.revision for script in scripts.walk_revisions()} - set(scripts.get_heads())
    return at is None or at in older
