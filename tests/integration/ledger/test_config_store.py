"""The stored config: threads share it and none gets an older one; ids are used once."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Connection, Engine

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import tenant_config
from tests.support.servers.waiting import wait_until
from worker.core.tenant_config import TenantConfig
from worker.ledger import tenant_rows
from worker.ledger.tenant_rows import ConfigStore
from worker.ledger.tenant_rows import load_config as load_stored

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
            assert set(
                pool.map(lambda _: store.current().tenants["acme"].max_batch, range(50))
            ) == {max_batch}
