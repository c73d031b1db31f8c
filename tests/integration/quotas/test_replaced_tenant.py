"""A removed tenant's name is used again: each tenant has its own usage and quotas."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, select

from models import Usage
from tests.integration.conftest import ApplyConfig, ReplaceTenants
from tests.support.builders.messages import Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker.core.tenants.config import Quota, QuotaOverride
from worker.db.engine import read_transaction, write_transaction
from worker.db.tenants import add_quota_override
from worker.usecases.upkeep.cleanup import clean_up


@pytest.fixture(autouse=True)
def config(apply_config: ApplyConfig) -> None:
    apply_config(tenant_config(Quota("grants", "day", 3), Quota("grants", "live", 3)))


def used(engine: Engine, window: str) -> dict[str, int]:
    """Return the grants charged in a window, by tenant id."""
    query = select(Usage.tenant, Usage.grants).where(Usage.window == window)
    with read_transaction(engine) as connection:
        return {tenant_id: grants for tenant_id, grants in connection.execute(query) if grants}


def test_usage_is_not_inherited(
    engine: Engine, service: InProcessService, replace_tenants: ReplaceTenants
) -> None:
    service.issue(grant_message(["acme/a", "acme/b"]))
    replace_tenants()
    usage = service.issue({"v": 1, "ask": "usage", "tenant": "acme"})
    assert (usage["tenant"], [quota["used"] for quota in usage["quotas"]]) == ("acme", [0, 0])
    outcome = service.issue(grant_message(["acme/a", "acme/b", "acme/c"]))
    assert [quota["used"] for quota in outcome["quotas"]] == [3, 3]
    assert used(engine, "day") == {"acme": 2, "acme~2": 3}


def test_grants_of_a_removed_tenant_are_released_from_its_own_usage(
    engine: Engine, service: InProcessService, replace_tenants: ReplaceTenants, clock: Clock
) -> None:
    service.issue(grant_message(["acme/a", "acme/b"]))
    clock.forward(minutes=4)
    replace_tenants()
    service.issue(grant_message())
    clock.forward(minutes=2)
    assert clean_up(service.context)["released"] == 1
    assert used(engine, "live") == {"acme~2": 1}
    clock.forward(minutes=4)
    assert clean_up(service.context)["released"] == 1
    assert used(engine, "live") == {}


def test_a_raised_quota_is_not_inherited(
    engine: Engine, service: InProcessService, replace_tenants: ReplaceTenants, clock: Clock
) -> None:
    override = QuotaOverride("grants", "day", 100, clock() + timedelta(hours=1))
    with write_transaction(engine) as connection:
        add_quota_override(connection, "acme", override, clock())
    limits = []
    for _ in range(2):
        outcome = service.issue(grant_message())
        limits.append([quota["limit"] for quota in outcome["quotas"]])
        replace_tenants()
    assert limits == [[103, 3], [3, 3]]
