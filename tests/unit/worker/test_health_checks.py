from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from threading import Event

import pytest

from worker.commands.health.checks import (
    ABANDONED_FOR,
    OVERDUE_AFTER,
    Check,
    check_abandoned_uploads,
    check_circuits,
    check_cleanup,
    check_consumers,
    check_eviction,
    check_manifests,
    check_messages,
    check_refused_uploads,
    check_settlements,
    check_tenants,
    check_webhooks,
)
from worker.core.tenants.config import Tenant, TenantConfig, TenantKey
from worker.core.webhooks.circuit import Circuit
from worker.db.audit.backlog import FailedManifests, RefusedUploads
from worker.jobs.timeouts import call_with_timeout
from worker.jobs.turns import TurnKey

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
CONSUMERS = {"valetkey": ["a@x", "b@x"], "valetkey.bulk": ["a@x"], "valetkey.upkeep": ["up@x"]}


def states(checks: Iterable[Check]) -> list[str]:
    return [check.state for check in checks]


def test_every_queue_has_a_worker() -> None:
    checks = list(check_consumers(CONSUMERS))
    assert states(checks) == ["ok", "ok", "ok"]
    assert checks[0].message == "valetkey is consumed by a@x, b@x"


@pytest.mark.parametrize(
    ("queue", "state", "role"),
    [
        ("valetkey", "fail", "issue"),
        ("valetkey.bulk", "fail", "issue"),
        ("valetkey.upkeep", "warn", "upkeep"),
    ],
)
def test_a_queue_without_a_worker_is_reported_with_the_worker_to_start(
    queue: str, state: str, role: str
) -> None:
    (problem,) = (
        check for check in check_consumers(CONSUMERS | {queue: []}) if check.state != "ok"
    )
    assert problem.message.startswith(f"no worker is alive that consumes the queue {queue}: ")
    assert (problem.state, problem.hint) == (state, f"python -m worker run --only {role}")


@pytest.mark.parametrize(
    ("policy", "expected"), [("allkeys-lru", ["warn"]), ("noeviction", []), (None, [])]
)
def test_a_server_that_drops_keys_is_a_warning(policy: str | None, expected: list[str]) -> None:
    assert states(check_eviction("broker", policy)) == expected


def test_uploads_that_storage_refused_are_a_warning_with_its_words() -> None:
    assert not list(check_refused_uploads([]))
    refused = RefusedUploads("demo", 3, "storage refused it: NotImplemented")
    (check,) = check_refused_uploads([refused])
    text = "demo: refused 3 in the last day; newest: storage refused it: NotImplemented"
    assert (check.state, check.message) == ("warn", text)


def test_pending_webhooks_are_a_warning_after_five_minutes() -> None:
    assert check_webhooks(None, NOW).state == "ok"
    assert check_webhooks(NOW - OVERDUE_AFTER, NOW).state == "ok"
    late = check_webhooks(NOW - OVERDUE_AFTER - MICROSECOND, NOW)
    assert (late.state, late.message) == ("warn", "the oldest pending one was queued 5 minutes ago")


def test_an_endpoint_that_is_paused_is_a_warning() -> None:
    open_circuit = Circuit(7, NOW + timedelta(minutes=2))
    circuits = {TurnKey("acme", "hook"): open_circuit, TurnKey("acme", "probed"): Circuit(5, NOW)}
    (check,) = check_circuits(circuits, NOW)
    assert (check.state, check.message) == (
        "warn",
        "acme/hook: paused for 2 minutes after 7 failures",
    )


def test_grants_that_expired_five_minutes_ago_and_are_not_released_are_a_failure() -> None:
    assert check_cleanup(None, NOW).state == "ok"
    assert check_cleanup(NOW + timedelta(days=1), NOW).state == "ok"
    assert check_cleanup(NOW - OVERDUE_AFTER, NOW).state == "ok"
    assert check_cleanup(NOW - OVERDUE_AFTER - MICROSECOND, NOW).state == "fail"


def test_a_tenant_that_trusts_the_queue_is_a_warning() -> None:
    key = TenantKey("billing", "S" * 43, "E" * 43)
    signing, trusting = Tenant("acme", keys={"billing": key}), Tenant("globex", "queue")
    assert states(check_tenants(TenantConfig(tenants={"acme": signing}), NOW)) == ["ok"]
    config = TenantConfig(tenants={"acme": signing, "globex": trusting})
    (check,) = check_tenants(config, NOW)
    assert (check.state, check.message.split()[0]) == ("warn", "globex")


def test_a_service_without_tenants_is_a_warning() -> None:
    assert states(check_tenants(TenantConfig(), NOW)) == ["warn"]


def test_a_call_that_takes_too_long_raises_a_timeout() -> None:
    event = Event()
    with pytest.raises(TimeoutError):
        call_with_timeout(0.01, event.wait)
    event.set()


def test_a_call_with_a_timeout_returns_its_result_or_raises_its_exception() -> None:
    with pytest.raises(ZeroDivisionError):
        call_with_timeout(10, lambda: 1 // 0)
    assert call_with_timeout(10, lambda: 1) == 1


def test_discarded_messages_are_counted_and_no_fault_of_the_service() -> None:
    check = check_messages({"eta": 2, "json": 1_000}, 0)
    assert (check.state, check.message) == ("ok", "discarded so far: 2 for eta, 1,000 for json")


def test_dead_letters_are_a_warning() -> None:
    check = check_messages({}, 3)
    assert check.state == "warn"
    assert check.hint == "python -m worker deadletters list"


def test_failed_manifests_are_a_warning_with_the_newest_problem() -> None:
    assert check_manifests(FailedManifests(0, None)).state == "ok"
    check = check_manifests(FailedManifests(3, "storage refused it: NoSuchBucket"))
    text = "3 failed in the last day; the newest: storage refused it: NoSuchBucket"
    assert (check.state, check.message) == ("warn", text)


def test_uploads_that_cannot_be_aborted_are_a_warning() -> None:
    ages = (None, NOW - ABANDONED_FOR, NOW - ABANDONED_FOR - MICROSECOND)
    checks = [check_abandoned_uploads(age, NOW) for age in ages]
    assert states(checks) == ["ok", "ok", "warn"]


def test_upload_slots_that_are_not_settled_for_a_day_are_a_warning() -> None:
    ages = (None, NOW - timedelta(hours=23), NOW - timedelta(hours=25))
    assert states([check_settlements(age, NOW) for age in ages]) == ["ok", "ok", "warn"]
