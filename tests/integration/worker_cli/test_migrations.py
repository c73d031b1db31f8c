import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from click import ClickException
from click.testing import CliRunner, Result
from sqlalchemy import Engine, text

import models
from models import Base
from models.schema import is_in_models
from tests.support.servers.databases import open_engine, url_text
from worker.base.database_engine import read_transaction, write_transaction
from worker.cli import database
from worker.cli.database import (
    alembic_config,
    known_revisions,
    migrate,
    migrate_to_head,
    open_database,
)
from worker.doctor.doctor_command import doctor


@pytest.mark.filterwarnings("ignore:.*expression-based index")
def test_the_migrations_create_the_tables_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"compare_type": True, "include_name": is_in_models}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


RELEASED = """
d3352209fb673b5e16351080c6bbe555321678726bd51cbc97b4ad2c7eb2922a  initial/partitions.py
8c5658dca640ebaba5b0a029c5a8948e20e9386bd677bf1546a831776c1ba327  initial/triggers.py
4e9ecb17c63dda719f8d169055d83f3db896cb51fada3527803bfefee9750efc  versions/0001_first_release.py
"""
"""The migrations that a release has, and their SHA-256 digests, as sha256sum prints them."""


@pytest.mark.parametrize("line", RELEASED.split("\n")[1:-1])
def test_a_released_migration_is_never_changed(line: str) -> None:
    digest, name = line.split()
    path = Path(models.__file__).parent / "migrations" / name
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


def test_tables_of_a_later_release_are_left_as_they_are(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))
    assert not migrate_to_head(url_text(engine.url))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999_later"


def test_the_migrations_can_be_reverted_and_applied_again(engine: Engine) -> None:
    with engine.connect() as connection:
        command.downgrade(alembic_config(connection), "base")
        command.upgrade(alembic_config(connection), "head")


@pytest.mark.parametrize(
    "revision", ["0001", "0001_first_tables", "0001_tables_0", "0001_tables_8"]
)
def test_a_database_of_a_checkout_before_the_first_release_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, revision: str
) -> None:
    url = url_text(engine.url)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = :new"), {"new": revision})
    with pytest.raises(ClickException, match="which cannot be migrated"):
        migrate_to_head(url)
    with (
        pytest.raises(ClickException, match="which cannot be migrated"),
        open_database(read_transaction),
    ):
        pass


def test_tables_of_nobody_knows_whom_are_named_and_left_as_they_are(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    with pytest.raises(ClickException, match="it already has a table with a name that valetkey"):
        migrate_to_head(url_text(engine.url))


NEXT_MIGRATION = """
from alembic import op
revision, down_revision = "0002_next", "{first}"
def upgrade(): op.execute("ALTER TABLE grants ADD COLUMN next integer")
"""


@pytest.fixture
def add_migration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """A function that adds a migration after those of the checkout."""

    def add() -> None:
        folder = tmp_path / "migrations"
        shutil.copytree(Path(models.__file__).parent / "migrations", folder)
        text = NEXT_MIGRATION.format(first=known_revisions()[-1])
        (folder / "versions" / "0002_next.py").write_text(text)
        monkeypatch.setattr(database, "_MIGRATIONS", folder)

    return add


def test_a_migration_goes_on_if_another_process_was_faster(
    postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = command.upgrade

    def create_twice(config: Config, _revision: str) -> None:
        monkeypatch.setattr(command, "upgrade", upgrade)
        assert migrate_to_head(postgres_database)
        config.attributes["connection"].exec_driver_sql("CREATE TABLE batches (name text)")

    monkeypatch.setattr(command, "upgrade", create_twice)
    assert migrate_to_head(postgres_database)


def test_a_long_read_ends_the_migration_before_workers_give_up(
    postgres_database: str, add_migration: Callable[[], None]
) -> None:
    migrate_to_head(postgres_database)
    add_migration()
    with open_engine(postgres_database) as engine, engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM grants"))
        with pytest.raises(ClickException, match="another transaction has locked"):
            migrate_to_head(postgres_database)
    assert migrate_to_head(postgres_database)


def test_tables_of_an_older_release_are_refused_until_they_are_migrated(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, add_migration: Callable[[], None]
) -> None:
    url = url_text(engine.url)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", url)
    add_migration()
    with (
        pytest.raises(ClickException, match="those of an older release"),
        open_database(read_transaction),
    ):
        pass
    assert migrate_to_head(url)
    with open_database(read_transaction) as connection:
        connection.execute(text("SELECT next FROM grants"))


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The path of the database that VALETKEY_DATABASE_URL names; it does not exist.

    Files get the umask of a typical shell.
    """
    path = tmp_path / "new" / "folder" / "valetkey.db"
    monkeypatch.setenv("VALETKEY_DATABASE_URL", f"sqlite:///{path}")
    before = os.umask(0o022)
    yield path
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def run_migrate() -> Result:
    return CliRunner().invoke(migrate, catch_exceptions=False)


def database_lines() -> list[str]:
    output = CliRunner().invoke(doctor).stdout
    return [line for line in output.splitlines() if " database " in line]


def test_migrate_creates_a_database_for_its_owner_only(path: Path) -> None:
    assert run_migrate().exit_code == 0
    assert [mode(each) for each in (path, path.parent, path.parents[1])] == [0o600, 0o700, 0o700]


def test_the_files_beside_a_database_are_for_its_owner_only(path: Path) -> None:
    run_migrate()
    with open_engine(f"sqlite:///{path}") as engine, write_transaction(engine) as connection:
        connection.execute(text("CREATE TABLE extra (name text)"))
        files = {each.name: mode(each) for each in path.parent.iterdir()}
    assert files == {"valetkey.db": 0o600, "valetkey.db-wal": 0o600, "valetkey.db-shm": 0o600}


def test_doctor_reports_a_database_that_other_accounts_can_read(path: Path) -> None:
    run_migrate()
    assert len(database_lines()) == 1
    path.chmod(0o644)
    (line,) = database_lines()[1:]
    assert f"warn  database  other accounts have access to {path} (mode 0644)" in line


def test_migrate_takes_the_access_of_other_accounts_away_and_says_so(path: Path) -> None:
    run_migrate()
    wal = path.with_name("valetkey.db-wal")
    wal.touch()
    path.chmod(0o664)
    wal.chmod(0o644)
    output = run_migrate().stdout
    assert f"Other accounts had access to {path} (mode 0664): only its owner has now." in output
    assert f"{wal} (mode 0644)" in output
    assert mode(path) == 0o600
    assert len(database_lines()) == 1


def test_migrate_leaves_the_mode_of_a_file_that_is_no_database(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("a text that is longer than sixteen bytes")
    path.chmod(0o644)
    result = run_migrate()
    assert result.exit_code == 1
    assert "the file is not a SQLite database, or is damaged" in result.stderr
    assert mode(path) == 0o644


def test_migrate_leaves_a_private_database_as_it_is(path: Path) -> None:
    run_migrate()
    path.chmod(0o600)
    assert run_migrate().stdout == "The database is up to date.\n"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:"])
def test_a_database_in_memory_has_no_file(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with open_engine(url) as engine:
        engine.connect().close()
    assert list(tmp_path.iterdir()) == []


def test_migrate_names_a_file_where_a_folder_should_be(path: Path) -> None:
    path.parents[1].write_text("")
    result = run_migrate()
    assert result.exit_code == 1
    assert f": {path.parents[1]}" in result.stderr
    assert "Next: correct the path in VALETKEY_DATABASE_URL" in result.stderr
