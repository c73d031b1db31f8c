"""The commands `backup` and `restore`: verified copies of a SQLite database.

Both use VACUUM INTO. It reads one snapshot while workers write, and its copy has no pages with
deleted rows, so what was erased before the backup is in no byte of it. sqlite3's backup API would
copy those pages. Nothing is lost by numbering rows anew: all our tables have integer primary keys
or unique ones.
"""

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from shlex import quote
from typing import NamedTuple

import click

from valetkey.cli.descriptions import describe_seconds
from valetkey.units import format_size
from worker.base.database_engine import sqlite_files, sqlite_path
from worker.base.database_errors import VARIABLE, cause_by_code
from worker.base.private_files import create_private_folder
from worker.cli.database import existing_database
from worker.cli.database_failures import describe_url
from worker.settings import Settings
from worker.shared.whole_files import new_file

_STEPS = 100_000  # of SQLite's virtual machine, after which Ctrl-C is noticed


def _named(_context: click.Context, _parameter: click.Parameter, file: Path) -> Path:
    if file.name in {"", "-"}:
        raise click.BadParameter("it must name a file", param_hint="FILE")
    return file


_FILE = click.argument("file", type=click.Path(dir_okay=False, path_type=Path), callback=_named)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


class DatabaseCopy(NamedTuple):
    """A verified copy: its size, the rows of all tables, and the revision of the tables."""

    file: str
    bytes: int
    rows: int
    revision: str
    seconds: float


@click.command()
@_FILE
@_JSON
def backup(file: Path, *, as_json: bool) -> None:
    """Write a verified copy of the SQLite database to FILE, which must not exist.

    Workers continue meanwhile. The copy has all that was committed before it began. It appears when
    it is complete, flushed to disk and verified, and only its owner may read it. It contains
    names and reasons from requests, and no links. On PostgreSQL, prints the pg_dump command to run
    instead.

    \b
    Example:
      python -m worker backup /var/backups/valetkey-2026-12-01.db
    """
    source = _sqlite_file(f"pg_dump --format=custom --file={quote(str(file))}")
    existing_database()
    with _errors(source, file):
        copy = _copy(source, file, "mode=rw")
    _print(copy, as_json=as_json)


@click.command()
@_FILE
@_JSON
def restore(file: Path, *, as_json: bool) -> None:
    """Create the SQLite database at VALETKEY_DATABASE_URL from FILE, a copy by `backup`.

    Stop all workers first, and move the damaged files elsewhere: nothing is replaced. A write-ahead
    log (-wal) of the old database can be mixed into the new one, so it is refused like the database
    itself. Follow docs/runbooks/restore.md before workers start again.

    \b
    Example:
      python -m worker restore /var/backups/valetkey-2026-12-01.db
    """
    options = "--no-owner --no-privileges --single-transaction"
    target = _sqlite_file(f"pg_restore {options} {quote(str(file))}")
    with _errors(file, target):
        if not file.exists():
            raise click.BadParameter(f"{file} does not exist", param_hint="FILE")
        for log in sqlite_files(f"sqlite:///{file.resolve()}")[1:]:
            if log.exists():
                raise click.UsageError(
                    f"{log} exists, so {file} is no copy by `backup`. Make one of it: set"
                    f" {VARIABLE}=sqlite:///{file.resolve()}, and run `python -m worker backup`"
                )
        create_private_folder(target.parent)
        copy = _copy(file, target, "mode=ro&immutable=1")
    _print(copy, as_json=as_json)


def _sqlite_file(command: str) -> Path:
    """Return the path of the database. For another one, raises an error with PostgreSQL's command.

    Neither the user nor the password of the URL is in it.
    """
    url = Settings().database_url.get_secret_value()
    path = sqlite_path(url)
    if path is None:
        name = f"postgresql:{describe_url(url).partition(':')[2]}"
        raise click.UsageError(
            f"this is for SQLite. As the owner of the tables, run `{command} --username=OWNER"
            f" --dbname={name}`, with sslmode and the hosts as in your URL; see docs/backup.md"
        )
    return path


def _copy(source: Path, target: Path, options: str) -> DatabaseCopy:
    """Copy a database, and verify the copy. Raises what `_errors` names; then there is no copy."""
    started = time.monotonic()
    for path in sqlite_files(f"sqlite:///{target}"):
        if path.exists():
            raise click.UsageError(f"{path} exists: move it away, or name another file")
    with new_file(target, replace=False, mode=0o600) as partial:
        try:
            with _opened(source, options) as connection:
                connection.execute("VACUUM INTO ?", (str(partial.absolute()),))
            with _opened(partial, "mode=rw") as connection:
                revision, rows = _verify(connection, source)
        finally:  # SQLite leaves it if the disk is full
            partial.with_name(f"{partial.name}-journal").unlink(missing_ok=True)
        size = partial.stat().st_size
    return DatabaseCopy(str(target), size, rows, revision, round(time.monotonic() - started, 3))


@contextmanager
def _errors(source: Path, target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise click.ClickException(f"{target} was not written: {error.strerror}.") from None
    except sqlite3.Error as error:
        code = error.sqlite_errorcode & 0xFF
        if code == sqlite3.SQLITE_INTERRUPT:
            raise KeyboardInterrupt from None
        cause = cause_by_code(error) if code != sqlite3.SQLITE_IOERR else None
        text = cause.text if cause else f"a file cannot be read or written ({error})"
        raise click.ClickException(f"{target} was not written from {source}: {text}.") from None


@contextmanager
def _opened(path: Path, options: str) -> Iterator[sqlite3.Connection]:
    # Without the engine, which would change a backup to WAL mode, and so the file itself.
    uri = f"{path.absolute().as_uri()}?{options}"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.set_progress_handler(lambda: None, _STEPS)
        yield connection


def _verify(connection: sqlite3.Connection, source: Path) -> tuple[str, int]:
    """Return the revision and the number of rows. Raises click.ClickException for a bad copy."""
    query = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
    tables = [name for (name,) in connection.execute(query)]
    (problem,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if problem != "ok":
        raise click.ClickException(f"{source} is damaged: {problem.splitlines()[0]}.")
    counts = (f'SELECT count(*) FROM "{name}"' for name in tables)  # noqa: S608 - our own names
    rows = sum(connection.execute(each).fetchone()[0] for each in counts)
    return connection.execute("SELECT version_num FROM alembic_version").fetchone()[0], rows


def _print(copy: DatabaseCopy, *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(copy._asdict()))
        return
    size, seconds = format_size(copy.bytes), describe_seconds(copy.seconds)
    click.echo(f"{copy.file}: {size}, {copy.rows:,} rows, revision {copy.revision}, in {seconds}.")
    click.echo("The copy is intact (PRAGMA integrity_check).")
