"""Opens and migrates the database for commands, and identifies the operator's account.

Commands end with a message instead of a traceback if the database cannot be used.
"""

import logging
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
from sqlalchemy.engine import make_url

import models
from worker import clock
from worker.commands.database_roles import grant_privileges, refuse_roles
from worker.commands.failures.database_failures import (
    DRIVER_ERRORS,
    NO_TABLES,
    OLD_TABLES,
    PROTOTYPE,
    database_cause,
    database_unusable,
    missing_file,
)
from worker.db.engine import create_database_engine, sqlite_files
from worker.errors import Transient
from worker.private_files import make_private, mode_of_others
from worker.settings import Settings
from worker.usecases.upkeep.partitions import create_partitions

# At INFO, Alembic logs two lines each time that the revision of the tables is read.
logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)

_PROTOTYPE_REVISION = "0001"
_SQLITE_HEADER = b"SQLite format 3\0"


def operator_account() -> str:
    """Return the name of the system account that runs this process.

    Asks the operating system, and ignores the environment, which the operator can change. An
    account without a name is `uid` and its number.
    """
    uid = os.getuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container, the user may be a number without an account
        return f"uid {uid}"


@click.command()
@click.option("--grant-to", metavar="ROLE", help="Let this role of PostgreSQL run workers.")
@click.option("--grant-read-to", metavar="ROLE", help="Let this role read all tables: auditors.")
def migrate(*, grant_to: str | None, grant_read_to: str | None) -> None:
    """Create or update the tables of the database at VALETKEY_DATABASE_URL.

    Changes nothing if the tables are up to date, or those of a later release. Removes other
    accounts' access to the files of a SQLite database. On PostgreSQL, creates the partitions of
    this month and the next two.

    --grant-to gives a role that does not own the tables what workers and operators' commands need.
    It can add to the audit log, but cannot change or remove what is there. Both options print what
    they grant, and take away what the role was granted before. Repeat them after each update.

    \b
    Examples:
      python -m worker migrate
      python -m worker migrate --grant-to valetkey_worker --grant-read-to valetkey_auditor
    """
    database_url = Settings().database_url.get_secret_value()
    options = {"--grant-to": grant_to, "--grant-read-to": grant_read_to}
    roles = {option: role for option, role in options.items() if role is not None}
    refuse_roles(roles, make_url(database_url).get_backend_name())
    _make_files_private(database_url)
    if migrate_to_head(database_url, roles):
        click.echo("The database is up to date.")
    else:
        click.echo("The tables are those of a later release, which this one can use: unchanged.")


def _is_sqlite(path: Path) -> bool:
    """Return whether a file is a SQLite database (sqlite.org/fileformat.html, section 1.3)."""
    try:
        with path.open("rb") as file:
            return file.read(len(_SQLITE_HEADER)) in {_SQLITE_HEADER, b""}
    except OSError:
        return False


def _make_files_private(database_url: str) -> None:
    paths = sqlite_files(database_url)
    if not paths or not _is_sqlite(paths[0]):
        return  # a mistyped path must not change the mode of another file
    for path in paths:
        mode = mode_of_others(path)
        if mode is None:
            continue
        try:
            make_private(path)
        except OSError as error:
            raise click.ClickException(
                f"Other accounts have access to {path} (mode {mode}), which cannot be changed: "
                f"{error.strerror}. The file's owner must run `chmod 600 {path}`."
            ) from None
        click.echo(f"Other accounts had access to {path} (mode {mode}): only its owner has now.")


def migrate_to_head(database_url: str, roles: dict[str, str] | None = None) -> bool:
    """Migrate a database's tables to this release. Changes nothing if they are up to date.

    Creates missing partitions, and grants privileges to roles, by option. Returns false, and
    changes nothing, if they are those of a later release. Raises click.ClickException for a
    database that cannot be used or migrated.
    """
    with _connected(database_url) as engine:
        with engine.connect() as connection:
            _refuse_prototype(connection, database_url)
            if is_of_later_release(connection):
                return False
        with engine.connect() as connection:  # Alembic begins and commits its own transactions
            command.upgrade(alembic_config(connection), "head")
        create_partitions(engine, clock.now())
        grant_privileges(engine, roles or {})
        return True


@contextmanager
def _connected(url: str) -> Iterator[Engine]:
    """Yield an engine; name the cause of what goes wrong with the database in the block."""
    try:
        engine = create_database_engine(url)
        try:
            yield engine
        finally:
            engine.dispose()
    except Transient as error:
        if not isinstance(error.__cause__, DRIVER_ERRORS):
            raise click.ClickException(f"Nothing was done: {error}.") from None
        raise database_unusable(database_cause(error.__cause__), url) from None
    except DRIVER_ERRORS as error:
        raise database_unusable(database_cause(error), url) from None
    except OSError as error:  # from the folder of a SQLite database
        if error.filename is None:
            raise
        raise database_unusable(database_cause(error), url) from None


@contextmanager
def open_database(
    transaction: Callable[[Engine], AbstractContextManager[Connection]],
) -> Iterator[Connection]:
    """Open VALETKEY_DATABASE_URL with `read_transaction` or `write_transaction`.

    Raises click.ClickException, which ends the command, if the database is out of reach, or if its
    tables are missing or older than this release. Creates no file of a SQLite database.
    """
    url = Settings().database_url.get_secret_value()
    if (cause := missing_file(url)) is not None:
        raise database_unusable(cause, url)
    with _connected(url) as engine, transaction(engine) as connection:
        _refuse_prototype(connection, url)
        if _needs_migration(connection):
            revision = _current_revision(connection)
            raise database_unusable(NO_TABLES if revision is None else OLD_TABLES, url)
        yield connection


def _refuse_prototype(connection: Connection, url: str) -> None:
    """Refuse a database of the first checkouts, whose tables have other names."""
    if _current_revision(connection) == _PROTOTYPE_REVISION:
        raise database_unusable(PROTOTYPE, url)


def _current_revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _needs_migration(connection: Connection) -> bool:
    # An unknown revision belongs to a later release, whose migrations keep our tables usable.
    scripts = ScriptDirectory.from_config(alembic_config(connection))
    is_current = _current_revision(connection) in scripts.get_heads()
    return not is_current and not is_of_later_release(connection)


def is_of_later_release(connection: Connection) -> bool:
    """Return whether the tables are those of a later release, which this one can use."""
    scripts = ScriptDirectory.from_config(alembic_config(connection))
    revision = _current_revision(connection)
    known = {script.revision for script in scripts.walk_revisions()}
    return revision is not None and revision not in known


def alembic_config(connection: Connection) -> Config:
    """Return an Alembic configuration that runs our migrations on this connection."""
    config = Config()
    config.set_main_option("script_location", str(Path(models.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
