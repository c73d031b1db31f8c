"""The limits of lanes in the process that serves them."""

from threading import Event, Thread
from typing import Any

import pytest

from tests.support.servers.waiting import wait_until
from valetkey.wire.waiting import SERVICE_FIELD
from worker import run
from worker.broker.lanes import LaneLimits
from worker.errors import Transient
from worker.rules.tenant_config import Tenant, TenantConfig
from worker.settings import Settings


@pytest.mark.parametrize("error", [Transient("away", "database"), ValueError("another release")])
def test_limits_follow_the_config_again_after_one_that_could_not_be_read(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([error, TenantConfig({}, {"acme": Tenant("acme", max_waiting=100)})])

    class Config:
        def __init__(self, _engine: Any) -> None:
            self.last: Any = None

        def current(self) -> TenantConfig:
            self.last = next(found, self.last)
            if isinstance(self.last, Exception):
                raise self.last
            return self.last  # type: ignore[no-any-return]

    monkeypatch.setattr(run, "ConfigStore", Config)
    monkeypatch.setattr(run, "_CONFIG_INTERVAL", 0.01)
    limits, stop = run._ConfigWatch(Settings()), Event()
    thread = Thread(target=limits.run, args=(stop,), daemon=True)
    thread.start()
    wait_until(lambda: "acme" in limits.limits)
    assert limits.limits == {SERVICE_FIELD: LaneLimits(), "acme": LaneLimits(100)}
    stop.set()
    thread.join()
