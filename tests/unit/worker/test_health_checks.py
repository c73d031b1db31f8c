from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest

from worker.commands.doctor import with_timeout
from worker.commands.health_checks import (
    OVERDUE,
    Check,
    check_cleanup,
    check_tenants,
    check_webhooks,
    check_workers,
)
from worker.core.tenants.config import Tenant, TenantConfig, TenantKey

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
A_MOMENT = timedelta(microseconds=1)
BUSY = {"valetkey": ["a@x", "b@x"], "valetkey.bulk": ["a@x"], "valetkey.upkeep": ["up@x"]}


def states(checks: Iterable[Check]) -> list[str]:
    return [check.state for check in checks]


def test_every_queue_has_a_worker() -> None:
    found = list(check_workers(BUSY))
    assert states(found) == ["ok", "ok", "ok"]
    assert found[0].message == "valetkey is consumed by a@x, b@x"


@pytest.mark.parametrize(
    ("queue", "only"),
    [("valetkey", "issue"), ("valetkey.bulk", "issue"), ("valetkey.upkeep", "upkeep")],
)
def test_a_queue_without_a_worker_is_a_warning_that_says_which_to_start(
    queue: str, only: str
) -> None:
    idle = [check for check in check_workers(BUSY | {queue: []}) if check.state != "ok"]
    text = f"no worker answers that consumes {queue}"
    assert idle == [Check("workers", "warn", text, f"python -m worker run --only {only}")]


def test_webhooks_are_late_after_five_minutes() -> None:
    assert check_webhooks(None, NOW).state == "ok"
    assert check_webhooks(NOW - OVERDUE, NOW).state == "ok"
    late = check_webhooks(NOW - OVERDUE - A_MOMENT, NOW)
    assert (late.state, late.message) == ("warn", "the oldest pending one was queued 5m ago")


def test_what_lapsed_five_minutes_ago_and_is_not_released_is_a_failure() -> None:
    assert check_cleanup(None, NOW).state == "ok"
    assert check_cleanup(NOW + timedelta(days=1), NOW).state == "ok"
    assert check_cleanup(NOW - OVERDUE, NOW).state == "ok"
    assert check_cleanup(NOW - OVERDUE - A_MOMENT, NOW).state == "fail"


def test_a_tenant_that_trusts_the_queue_is_a_warning() -> None:
    key = TenantKey("billing", "S" * 43, "E" * 43)
    signing, trusting = Tenant("acme", keys={"billing": key}), Tenant("globex", "queue")
    assert states(check_tenants(TenantConfig(tenants={"acme": signing}), NOW)) == ["ok"]
    both = TenantConfig(tenants={"acme": signing, "globex": trusting})
    (warned,) = check_tenants(both, NOW)
    assert (warned.state, warned.message.split()[0]) == ("warn", "globex")


def test_a_service_without_tenants_is_a_warning() -> None:
    assert states(check_tenants(TenantConfig(), NOW)) == ["warn"]


def test_what_takes_too_long_is_not_waited_for() -> None:
    never = Event()
    with pytest.raises(TimeoutError):
        with_timeout(0.01, never.wait)
    never.set()


def test_what_a_bounded_call_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        with_timeout(10, lambda: 1 // 0)
    assert with_timeout(10, lambda: 1) == 1
