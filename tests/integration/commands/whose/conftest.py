from collections.abc import Iterator
from dataclasses import replace

import pytest
from click.testing import CliRunner

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import DEMO, POLICY, Clock, tenant_config
from tests.support.cli.pasted_links import PART_SIZE, Whose
from tests.support.fakes.http_storage import HttpStorage, running_http_storage
from tests.support.fakes.memory_storage import MemoryStorage
from worker.commands.audit.whose import whose
from worker.core.tenants.config import TenantConfig


@pytest.fixture(scope="module")
def storage() -> Iterator[HttpStorage]:
    with running_http_storage(MemoryStorage()) as server:
        yield server


@pytest.fixture
def config(storage: HttpStorage, apply_config: ApplyConfig) -> TenantConfig:
    policy = replace(POLICY, plain=True, max_size=2 * PART_SIZE)
    tenant = tenant_config(policies={"demo": policy}).tenants["acme"]
    config = TenantConfig(
        {"demo": replace(DEMO, endpoint=storage.url)},
        {"acme": tenant, "globex": replace(tenant, name="globex")},
    )
    apply_config(config)
    return config


@pytest.fixture
def run(
    config: TenantConfig,  # noqa: ARG001 - is applied
    database: str,  # noqa: ARG001 - configures the command
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> Whose:
    monkeypatch.setattr("worker.clock.now", clock)
    return lambda *words, **options: CliRunner().invoke(whose, list(words), **options)
