"""Opens and migrates the database for commands, and identifies the operator's account.

Commands end with a message instead of a traceback if the database cannot be used.
"""

import logging
import os
import pwd
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

import models
from worker import clock
from worker.base.database_engine import (
    OLDEST_POSTGRES,
    create_database_engine,
    limit_lock_waits,
    read_transaction,
    sqlite_files,
    sqlite_path,
)
from worker.base.private_files import make_private, mode_of_others
from worker.settings import Settings

if TYPE_CHECKING:  # only migrations need Alembic: commands that read start without it
    from alembic.config import Config


# At INFO, Alembic logs two lines each time that the revision of the tables is read.
logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)

_MIGRATIONS = Path(models.__file__).parent / "migrations"
_MIGRATION_LOCK_SECONDS = 2
_SQLITE_HEADER = b"SQLite format 3\0"
_Transaction = Callable[[Engine], AbstractContextManager[Connection]]


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
@click.option(
    "--grant-operators-to", metavar="ROLE", help="Let this role run operators' commands as well."
)
@click.option("--grant-read-to", metavar="ROLE", help="Let this role read all tables: auditors.")
def migrate(**grants: str | None) -> None:
    """Create or update the tables of the database at VALETKEY_DATABASE_URL.

    Changes nothing if the tables are up to date, or those of a later release. Removes other
    accounts' access to the files of a SQLite database. On PostgreSQL, creates the partitions of
    this month and the next two. If it is interrupted, or a table is in use for more than two
    seconds, run it again: it continues.

    --grant-to gives a role that does not own the tables what workers need. It can add to the audit
    log, but cannot change or remove what is there, and cannot change tenants, keys, policies,
    quotas, endpoints or bucket profiles. --grant-operators-to gives what `apply`, `quota` and
    `revoke` need as well. All three options print what they grant, and revoke what the role was
    granted before. Repeat them after each update.

    \b
    Examples:
      python -m worker migrate
      python -m worker migrate --grant-to valetkey_worker --grant-operators-to valetkey_operator
    """
    from worker.cli.database_roles import refuse_roles  # noqa: PLC0415

    database_url = Settings().database_url.get_secret_value()
    named = ((f"--{name.replace('_', '-')}", role) for name, role in grants.items())
    roles = {option: role for option, role in named if role is not None}
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
    from worker.base.jobs import ProblemLog  # noqa: PLC0415
    from worker.base.month_partitions import create_partitions  # noqa: PLC0415
    from worker.cli.database_roles import grant_privileges  # noqa: PLC0415

    with _connected(database_url) as engine:
        with engine.connect() as connection:
            _check_server(connection, database_url)
            state = tables_state(_current_revision(connection))
        if state == "pre-release tables":
            raise unusable_tables(state, database_url)
        if state == "later tables":
            return False
        _upgrade(engine)
        create_partitions(engine, clock.now(), ProblemLog())
        grant_privileges(engine, roles or {})
        return True


def _upgrade(engine: Engine) -> None:
    """Run the migrations that the tables lack. If another process runs them, wait and try again."""
    from alembic import command  # noqa: PLC0415

    while True:
        with engine.connect() as connection:
            revision = _current_revision(connection)
        try:
            with engine.connect() as connection:  # Alembic begins and commits its own transactions
                limit_lock_waits(connection, _MIGRATION_LOCK_SECONDS)
                command.upgrade(alembic_config(connection), "head")
        except DBAPIError:
            with engine.connect() as connection:
                if _current_revision(connection) == revision:
                    raise
        else:
            return


@contextmanager
def database_errors(url: str) -> Iterator[None]:
    """Name the cause of what goes wrong with the database in the block."""
    try:
        yield
    except Exception as error:
        from worker.cli.database_failures import describe_failure  # noqa: PLC0415

        failure = describe_failure(error, url)
        if failure is None:
            raise
        raise failure from None


@contextmanager
def _connected(url: str) -> Iterator[Engine]:
    with database_errors(url):
        engine = create_database_engine(url)
        try:
            yield engine
        finally:
            engine.dispose()


@contextmanager
def open_database(
    transaction: _Transaction, *, refuses_later: bool = False
) -> Iterator[Connection]:
    """Open VALETKEY_DATABASE_URL with `read_transaction` or `write_transaction`.

    Raises click.ClickException if the database is out of reach, its server is older than PostgreSQL
    15, or if its tables are missing, of a
    checkout before 0.1.0, older than this release, or with refuses_later of a later one. Creates no
    file of a SQLite database.
    """
    url = existing_database()
    with _connected(url) as engine, transaction(engine) as connection:
        _check_tables(connection, url, refuses_later=refuses_later)
        yield connection


@contextmanager
def open_engine() -> Iterator[Engine]:
    """Open VALETKEY_DATABASE_URL for several transactions. Raises as `open_database` does."""
    url = existing_database()
    with _connected(url) as engine:
        with read_transaction(engine) as connection:
            _check_tables(connection, url, refuses_later=False)
        yield engine


def existing_database() -> str:
    """Return VALETKEY_DATABASE_URL. Raises click.ClickException if its file does not exist."""
    url = Settings().database_url.get_secret_value()
    path = sqlite_path(url)
    if path is not None and not path.exists():
        raise unusable_tables("missing", url)
    return url


def _check_server(connection: Connection, url: str) -> None:
    release: tuple[int, ...] = getattr(connection.dialect, "server_version_info", ())
    if connection.dialect.name == "postgresql" and release < (OLDEST_POSTGRES,):
        raise unusable_tables("old server", url)


def _check_tables(connection: Connection, url: str, *, refuses_later: bool) -> None:
    _check_server(connection, url)
    state = tables_state(_current_revision(connection))
    if state is not None and (refuses_later or state != "later tables"):
        raise unusable_tables(state, url)


def unusable_tables(state: str, url: str) -> click.ClickException:
    """Return the exception that ends a command, by the key in `STATES` of the tables."""
    from worker.cli.database_failures import STATES, database_unusable  # noqa: PLC0415

    return database_unusable(STATES[state], url)


def _current_revision(connection: Connection) -> str | None:
    """Return the revision of the tables, None if there are none."""
    if not connection.dialect.has_table(connection, "alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision


def known_revisions() -> list[str]:
    """Return the revisions of this release, oldest first: those of its migrations' file names."""
    return sorted(path.stem for path in (_MIGRATIONS / "versions").glob("[0-9]*.py"))


def tables_state(revision: str | None) -> str | None:
    """Return the key in `STATES` of tables with a revision; None for those of this release."""
    known = known_revisions()
    if revision is None:
        return "no tables"
    if revision in known:
        return None if revision == known[-1] else "old tables"
    # Checkouts before 0.1.0 gave the first migration another id each time that it changed.
    if revision.partition("_")[0] == known[0].partition("_")[0]:
        return "pre-release tables"
    # An unknown revision belongs to a later release, whose migrations keep our tables usable.
    return "later tables"


def is_of_later_release(connection: Connection) -> bool:
    """Return whether the tables are those of a later release, which this one can use."""
    return tables_state(_current_revision(connection)) == "later tables"


def alembic_config(connection: Connection) -> "Config":
    """Return an Alembic configuration that runs our migrations on this connection."""
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config
