"""A config that is applied while a process loads one, between the two reads of its revision."""

from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import DEMO, tenant_config
from worker.core.tenant_config import TenantConfig
from worker.ledger import tenant_rows
from worker.ledger.tenant_rows import ConfigStore

OLD = tenant_config(max_batch=1)
NEW = TenantConfig({"demo": replace(DEMO, region="eu-west-1")}, tenant_config(max_batch=2).tenants)


@pytest.mark.parametrize(
    ("module", "name", "is_before"),
    [
        pytest.param(tenant_rows, "load_config", True, id="before the first table"),
        pytest.param(tenant_rows, "read_ended_sessions", True, id="between two tables"),
        pytest.param(tenant_rows, "load_config", False, id="after the last table"),
    ],
)
def test_a_config_that_is_applied_while_one_is_loaded_is_neither_mixed_with_it_nor_missed(
    module: Any,
    name: str,
    is_before: bool,  # noqa: FBT001 - a parameter of the test
    engine: Engine,
    apply_config: ApplyConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    apply_config(OLD)
    pending, read = [NEW], getattr(module, name)

    def read_and_apply(*arguments: Any) -> Any:
        rows = None if is_before else read(*arguments)
        if pending:
            apply_config(pending.pop())
        return read(*arguments) if is_before else rows

    monkeypatch.setattr(module, name, read_and_apply)
    store = ConfigStore(engine)
    assert store.current() in (OLD, NEW)
    assert (store.current(), pending) == (NEW, [])
