import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from click import ClickException
from sqlalchemy import Engine, text

import models
from models import Base
from models.schema import is_in_models
from tests.support.servers.databases import url_text
from worker.base.database_engine import create_database_engine, read_transaction
from worker.cli import database
from worker.cli.database import alembic_config, known_revisions, migrate_to_head, open_database


def test_the_migrations_create_the_tables_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"compare_type": True, "include_name": is_in_models}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_the_first_migration_no_longer_follows_the_models_once_there_is_a_second_one() -> None:
    folder = Path(models.__file__).parent / "migrations"
    follows = "models import Base" in (folder / f"versions/{known_revisions()[0]}.py").read_text()
    assert follows == (len(known_revisions()) == 1)  # CONTRIBUTING.md, Releases


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
    "revision",
    ["0001", "0001_first_tables", "0001_tables_0", "0006_trees", "0018_sessions_from"],
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
    engine = create_database_engine(postgres_database)
    with engine.connect() as reader:
        reader.execute(text("SELECT count(*) FROM grants"))
        with pytest.raises(ClickException, match="another transaction has locked"):
            migrate_to_head(postgres_database)
    assert migrate_to_head(postgres_database)
    engine.dispose()


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
