"""The stored config: threads share it and none gets an older one; ids are used once."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import DEMO, tenant_config
from tests.support.servers.waiting import wait_until
from worker.ledger import tenant_rows
from worker.ledger.tenant_rows import ConfigStore
from worker.ledger.tenant_rows import load_config as load_stored
from worker.rules.tenant_config import TenantConfig

THREADS = 8


def test_threads_that_need_a_new_config_load_it_once(
    engine: Engine, apply_config: ApplyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads, reads = list[bool](), list[bool]()
    read_revision = tenant_rows._revision
    store = ConfigStore(engine)

    def count_and_read(row: tuple[int] | None) -> int:
        reads.append(True)
        return read_revision(row)

    def count_and_load(connection: Connection) -> TenantConfig:
        loads.append(True)
        # All threads have read the revision, and one of them a second time before it loads.
        wait_until(lambda: len(reads) > THREADS)
        return load_stored(connection)

    config = tenant_config()
    apply_config(config)
    monkeypatch.setattr(tenant_rows, "_revision", count_and_read)
    monkeypatch.setattr(tenant_rows, "load_config", count_and_load)
    with ThreadPoolExecutor(THREADS) as pool:
        configs = list(pool.map(lambda _: store.current(), range(THREADS)))
    assert configs == [config] * THREADS
    assert len(loads) == 1


def test_a_config_is_in_effect_for_every_thread_once_it_is_applied(
    engine: Engine, apply_config: ApplyConfig
) -> None:
    store = ConfigStore(engine)
    with ThreadPoolExecutor(THREADS) as pool:
        for max_batch in range(1, 10):
            config = tenant_config(max_batch=max_batch)
            apply_config(config)
            configs = pool.map(lambda _: store.current(), range(50))
            assert {each.tenants["acme"].max_batch for each in configs} == {max_batch}


OLD = tenant_config(max_batch=1)
NEW = TenantConfig({"demo": replace(DEMO, region="eu-west-1")}, tenant_config(max_batch=2).tenants)


@pytest.mark.parametrize(
    ("name", "is_before"),
    [("load_config", True), ("sessions_from", True), ("load_config", False)],
    ids=["before the first table", "between two tables", "after the last table"],
)
def test_a_config_that_is_applied_while_one_is_loaded_is_neither_mixed_with_it_nor_missed(
    engine: Engine,
    apply_config: ApplyConfig,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    *,
    is_before: bool,
) -> None:
    apply_config(OLD)
    pending, read = [NEW], getattr(tenant_rows, name)

    def read_and_apply(*arguments: Any) -> Any:
        rows = None if is_before else read(*arguments)
        if pending:
            apply_config(pending.pop())
        return read(*arguments) if is_before else rows

    monkeypatch.setattr(tenant_rows, name, read_and_apply)
    store = ConfigStore(engine)
    assert store.current() in (OLD, NEW)
    assert (store.current(), pending) == (NEW, [])
