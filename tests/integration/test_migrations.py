import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from models import Base
from tests.integration.conftest import Declare
from tests.issuing import Answering
from tests.requests import declared, message
from worker.commands.migrate import configuration, migrate_to_head


def test_the_migrations_make_the_tables_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    migrate_to_head(engine.url.render_as_string(hide_password=False))


def test_the_migrations_can_be_undone_and_done_again(engine: Engine) -> None:
    with engine.connect() as connection:
        command.downgrade(configuration(connection), "base")
        command.upgrade(configuration(connection), "head")


@pytest.mark.parametrize("table", ["batches", "chunks", "grants"])
@pytest.mark.parametrize("statement", ["DELETE FROM {}", "UPDATE {} SET number = number + 1"])
def test_the_database_refuses_to_change_the_audit_log(
    engine: Engine, declare: Declare, issuer: Answering, table: str, statement: str
) -> None:
    declare(declared())
    issuer.issue(message())
    with pytest.raises(DBAPIError, match="append only"), engine.begin() as connection:
        connection.execute(text(statement.format(table)))
