"""Ids of tenants: how they are stored, and how a database without them is migrated."""

from collections.abc import Iterator
from datetime import timedelta

import pytest
from alembic import command
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.exc import DBAPIError

from models import Batch, TenantIdentity
from tests.integration.conftest import ApplyConfig
from tests.support.builders.audit_rows import AuditedBatch
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker.commands.database import alembic_config
from worker.core.tenants.config import QuotaOverride, TenantConfig, WebhookEndpoint
from worker.db.engine import create_database_engine, read_transaction, write_transaction
from worker.db.outbox import due_endpoints
from worker.db.tenants import add_quota_override, load_config, store_config
from worker.jobs.turns import TurnKey

BEFORE_IDS = "0001_first_tables"
OLD_ROWS = (
    "INSERT INTO tenants (name, trust, max_batch) VALUES ('acme', 'queue', 10)",
    "INSERT INTO cancellations VALUES ('cancelled', 'b', NULL, 'ann', NULL, '2026-11-24')",
    "INSERT INTO usage VALUES ('charged', 'day', '2026-11-24', 1, 1, 0)",
    "INSERT INTO quota_overrides VALUES (1, 'raised', 'grants', 'day', 1, '2026-11-24')",
    "INSERT INTO rejections VALUES ('2026-11-24', '', 'token_invalid', 1, '2026-11-24', '')",
    "INSERT INTO rejections VALUES ('2026-11-24', 'rejected', 'c', 1, '2026-11-24', '')",
)


@pytest.fixture
def old_engine(database_url: str) -> Iterator[Engine]:
    """A database of the release before tenants had ids."""
    engine = create_database_engine(database_url)
    with engine.connect() as connection:
        command.upgrade(alembic_config(connection), BEFORE_IDS)
    yield engine
    engine.dispose()


def migrate(engine: Engine) -> None:
    with engine.connect() as connection:
        command.upgrade(alembic_config(connection), "head")


def stored_ids(engine: Engine) -> dict[str, str]:
    """Return the names of all tenants, removed ones too, by id."""
    with read_transaction(engine) as connection:
        rows = connection.execute(select(TenantIdentity.id, TenantIdentity.name))
        return {row.id: row.name for row in rows}


def test_the_migration_gives_every_tenant_with_rows_its_name_as_id(old_engine: Engine) -> None:
    with write_transaction(old_engine) as connection:
        for statement in OLD_ROWS:
            connection.execute(text(statement))
        for number, tenant in enumerate(("acme", "old", "old", "zeta"), start=1):
            AuditedBatch(number, ["acme/a"], tenant=tenant).write(connection)
    migrate(old_engine)
    names = {"acme", "cancelled", "charged", "raised", "rejected", "old", "zeta"}
    assert stored_ids(old_engine) == {name: name for name in names}
    with read_transaction(old_engine) as connection:
        acme = load_config(connection).tenants["acme"]
    assert (acme.id, acme.created_at) == ("acme", None)


def test_a_name_that_was_removed_before_the_migration_is_not_inherited_either(
    old_engine: Engine, clock: Clock
) -> None:
    with write_transaction(old_engine) as connection:
        AuditedBatch(1, ["acme/a"], tenant="acme").write(connection)
    migrate(old_engine)
    with write_transaction(old_engine) as connection:
        store_config(connection, TenantConfig(), tenant_config(), clock())
        acme = load_config(connection).tenants["acme"]
    assert (acme.id, acme.created_at) == ("acme~2", clock())


def test_a_tenant_of_an_earlier_releases_apply_has_its_name_as_id(
    engine: Engine, service: InProcessService, apply_config: ApplyConfig, clock: Clock
) -> None:
    hook = WebhookEndpoint("hook", "https://example.com/", "env:HOOK")
    override = QuotaOverride("grants", "day", 5, clock() + timedelta(hours=1))
    apply_config(tenant_config(endpoints={"hook": hook}))
    with write_transaction(engine) as connection:  # workers of both releases run for a while
        connection.execute(text("UPDATE tenants SET id = NULL"))
        add_quota_override(connection, "acme", override, clock())
    service.issue(grant_message(callback="hook"))
    with write_transaction(engine) as connection:
        assert connection.scalar(select(Batch.tenant)) == "acme"
        assert load_config(connection).tenants["acme"].quota_overrides == (override,)
        assert due_endpoints(connection, clock()) == [TurnKey("acme", "hook")]


def test_an_id_is_not_used_again_even_if_an_earlier_release_stored_its_tenant(
    engine: Engine, apply_config: ApplyConfig
) -> None:
    with write_transaction(engine) as connection:
        connection.execute(text(OLD_ROWS[0]))
    apply_config(TenantConfig())
    apply_config(tenant_config())
    assert stored_ids(engine) == {"acme": "acme", "acme~2": "acme"}


def test_ids_differ_however_often_a_name_is_used(engine: Engine, apply_config: ApplyConfig) -> None:
    for _ in range(3):
        apply_config(tenant_config())
        apply_config(tenant_config(max_batch=7))
        apply_config(TenantConfig())
    assert stored_ids(engine) == dict.fromkeys(("acme", "acme~2", "acme~3"), "acme")


@pytest.mark.parametrize(
    "statement", ["DELETE FROM tenant_identities", "UPDATE tenant_identities SET name = 'x'"]
)
def test_the_database_refuses_to_change_ids(engine: Engine, statement: str) -> None:
    with write_transaction(engine) as connection:
        connection.execute(insert(TenantIdentity).values(id="acme", name="acme"))
    with pytest.raises(DBAPIError, match="append only"), engine.begin() as connection:
        connection.execute(text(statement))
