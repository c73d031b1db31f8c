"""Ids of tenants: each is used once, also if a name is used again."""

import pytest
from sqlalchemy import Engine, insert, select, text
from sqlalchemy.exc import DBAPIError

from models import TenantIdentity
from tests.integration.conftest import ApplyConfig
from tests.support.builders.audit_rows import MORNING
from tests.support.builders.messages import tenant_config
from worker.core.tenants.config import TenantConfig
from worker.db.engine import read_transaction, write_transaction


def stored_ids(engine: Engine) -> dict[str, str]:
    """Return the names of all tenants, removed ones too, by id."""
    with read_transaction(engine) as connection:
        rows = connection.execute(select(TenantIdentity.id, TenantIdentity.name))
        return {row.id: row.name for row in rows}


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
        values = {"id": "acme", "name": "acme", "created_at": MORNING}
        connection.execute(insert(TenantIdentity).values(values))
    with pytest.raises(DBAPIError, match="append only"), engine.begin() as connection:
        connection.execute(text(statement))
