"""The process that serves lanes takes their limits from settings and from the tenants."""

import threading

import pytest
import redis

from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import tenant_config
from tests.support.servers.waiting import wait_until
from valetkey.wire.waiting import SERVICE_FIELD
from worker import run
from worker.broker.lanes import LaneLimits
from worker.doctor.discard_counts import read_discard_counts
from worker.settings import Settings


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({"max_waiting": 100, "max_waiting_age": 60}, LaneLimits(100, 60)),
        ({"max_waiting": 100}, LaneLimits(100, 30)),
        ({}, LaneLimits(500, 30)),
    ],
)
def test_limits_are_those_of_the_tenant_or_else_of_the_settings(
    apply_config: ApplyConfig,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    own: dict[str, int],
    expected: LaneLimits,
) -> None:
    apply_config(tenant_config(**own))
    monkeypatch.setenv("VALETKEY_DATABASE_URL", database_url)
    monkeypatch.setenv("VALETKEY_LANE_MESSAGES", "500")
    monkeypatch.setenv("VALETKEY_LANE_AGE_SECONDS", "30")
    limits, stop = run._ConfigWatch(Settings()), threading.Event()
    thread = threading.Thread(target=limits.run, args=(stop,))
    thread.start()
    try:
        wait_until(lambda: "acme" in limits.limits, what="the tenants are read")
    finally:
        stop.set()
        thread.join()
    assert limits.limits == {SERVICE_FIELD: LaneLimits(500, 30), "acme": expected}


def test_messages_that_are_dropped_beyond_a_limit_are_counted(broker: str) -> None:
    run._count_dropped(broker, 3)
    run._count_dropped(broker, 4)
    with redis.Redis.from_url(broker) as client:
        assert read_discard_counts(client) == {"lane_full": 7}
