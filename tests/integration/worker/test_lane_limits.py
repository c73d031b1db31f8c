"""The limits of lanes, from the settings and the tenant config to the fair queue."""

import threading
from collections.abc import Iterator

import pytest
from pydantic import ValidationError

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import tenant_config
from tests.support.servers.waiting import wait_until
from valetkey.wire.waiting import SERVICE_FIELD
from worker.broker.lanes import LaneLimits
from worker.run import _TenantLimits
from worker.settings import Settings, setting_errors


@pytest.fixture
def limits(database: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[_TenantLimits]:
    """Limits that are read again all the time."""
    monkeypatch.setattr("worker.run._CONFIG_INTERVAL", 0.02)
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database)
    monkeypatch.setenv("VALETKEY_LANE_MESSAGES", "500")
    limits, stop = _TenantLimits(Settings()), threading.Event()
    thread = threading.Thread(target=limits.run, args=(stop,))
    thread.start()
    yield limits
    stop.set()
    thread.join(10)


def test_a_tenant_has_the_limits_of_the_service_or_its_own(
    limits: _TenantLimits, apply_config: ApplyConfig
) -> None:
    service = LaneLimits(500, 600)
    apply_config(tenant_config())
    wait_until(lambda: limits.current == {SERVICE_FIELD: service, "acme": service})
    apply_config(tenant_config(max_waiting=64, max_waiting_age=5))
    wait_until(lambda: limits.current == {SERVICE_FIELD: service, "acme": LaneLimits(64, 5)})


@pytest.mark.parametrize(
    ("name", "value"), [("MESSAGES", "0"), ("MESSAGES", "63"), ("AGE_SECONDS", "0")]
)
def test_a_limit_below_what_one_batch_needs_is_refused_at_start(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"VALETKEY_LANE_{name}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [line.partition(":")[0] for line in setting_errors(caught.value)] == [
        f"VALETKEY_LANE_{name}"
    ]
