from dataclasses import replace

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from click import ClickException
from sqlalchemy import Engine, func, select, text
from sqlalchemy.exc import DBAPIError

from models import Base
from models.partitions import is_in_models
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import DEMO, POLICY, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker.commands.database import alembic_config, migrate_to_head
from worker.core.tenants.config import TenantConfig
from worker.db.engine import read_transaction
from worker.db.tenants import load_config


def test_the_migrations_create_the_tables_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"compare_type": True, "include_name": is_in_models}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_migrating_twice_changes_nothing(engine: Engine) -> None:
    migrate_to_head(engine.url.render_as_string(hide_password=False))


def test_tables_of_a_later_release_are_left_as_they_are(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999_later'"))
    assert not migrate_to_head(engine.url.render_as_string(hide_password=False))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999_later"


def test_the_migrations_can_be_reverted_and_applied_again(engine: Engine) -> None:
    with engine.connect() as connection:
        command.downgrade(alembic_config(connection), "base")
        command.upgrade(alembic_config(connection), "head")


def test_rows_of_the_previous_release_get_no_plain_links_and_have_conditional_writes(
    engine: Engine, apply_config: ApplyConfig
) -> None:
    permissive = replace(POLICY, plain=True)
    config = tenant_config(policies={"demo": permissive})
    unconditional = replace(DEMO, conditional_writes=False)
    apply_config(TenantConfig({"demo": unconditional}, config.tenants))
    with engine.connect() as connection:
        command.downgrade(alembic_config(connection), "0003_fair_turns")
        command.upgrade(alembic_config(connection), "head")
    with read_transaction(engine) as connection:
        migrated = load_config(connection)
    assert migrated.tenants["acme"].policies["demo"] == replace(permissive, plain=False)
    assert migrated.buckets["demo"] == DEMO


@pytest.mark.parametrize("table", ["batches", "chunks", "grants"])
@pytest.mark.parametrize(
    "statement", ["DELETE FROM {}", "UPDATE {} SET batch_number = batch_number + 1"]
)
def test_the_database_refuses_to_change_the_audit_log(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService, table: str, statement: str
) -> None:
    apply_config(tenant_config())
    service.issue(grant_message())
    with pytest.raises(DBAPIError, match="append only"), engine.begin() as connection:
        connection.execute(text(statement.format(table)))


def test_a_database_of_a_checkout_before_the_first_release_is_refused(engine: Engine) -> None:
    url = engine.url.render_as_string(hide_password=False)
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    with pytest.raises(ClickException, match="and cannot be migrated"):
        migrate_to_head(url)


def test_rows_of_the_previous_release_survive_the_table_of_upload_starts(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(tenant_config())
    service.issue(grant_message())
    counts = [
        select(func.count()).select_from(Base.metadata.tables[table])
        for table in ("batches", "grants", "reservations")
    ]
    with engine.connect() as connection:
        config = alembic_config(connection)
        for step in ("0003_fair_turns", "head"):
            move = command.downgrade if step != "head" else command.upgrade
            move(config, step)
            assert [connection.scalar(count) for count in counts] == [1, 1, 1]
            connection.commit()  # an index is built outside of a transaction
        assert connection.scalar(text("SELECT count(*) FROM upload_starts")) == 0
