"""Threads share one config store, and none of them gets a config older than what it asked for."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from sqlalchemy import Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import tenant_config
from worker.core.tenants.config import TenantConfig
from worker.db import tenants
from worker.db.tenants import ConfigStore

THREADS = 8


def test_threads_that_need_a_new_config_load_it_once(
    engine: Engine, apply_config: ApplyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = []
    load_config = tenants.load_config
    store, barrier = ConfigStore(engine), Barrier(THREADS)

    def count_and_load(connection: object) -> TenantConfig:
        loads.append(connection)
        return load_config(connection)  # type: ignore[arg-type]

    def read(_: int) -> TenantConfig:
        barrier.wait(10)
        return store.current()

    config = tenant_config()
    apply_config(config)
    monkeypatch.setattr(tenants, "load_config", count_and_load)
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(read, range(THREADS))) == [config] * THREADS
    assert len(loads) == 1


def test_a_config_is_in_effect_for_every_thread_once_it_is_applied(
    engine: Engine, apply_config: ApplyConfig
) -> None:
    store = ConfigStore(engine)
    with ThreadPoolExecutor(THREADS) as pool:
        for max_batch in range(1, 10):
            config = tenant_config(max_batch=max_batch)
            apply_config(config)
            assert set(
                pool.map(lambda _: store.current().tenants["acme"].max_batch, range(50))
            ) == {max_batch}
