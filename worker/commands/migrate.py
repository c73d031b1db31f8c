from pathlib import Path

import click
from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

import models
from worker.adapters.database import connect
from worker.settings import Settings


def configuration(connection: Connection) -> Config:
    """Tell Alembic where the migrations are and which connection they run on."""
    config = Config()
    config.set_main_option("script_location", str(Path(models.__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config


def migrate_to_head(database_url: str) -> None:
    """Bring a database's tables to this release; one that is there already is left alone."""
    engine = connect(database_url)
    with engine.connect() as connection:
        command.upgrade(configuration(connection), "head")
    engine.dispose()


@click.command()
def migrate() -> None:
    """Create or update the tables of VALETKEY_DATABASE_URL."""
    migrate_to_head(Settings().database_url.get_secret_value())
    click.echo("The database is up to date.")
