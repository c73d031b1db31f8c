from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from tests.support.builders.messages import DEMO
from worker.aborts.abort_monitoring import ABANDONED_UPLOADS
from worker.broker.queues import Heartbeat
from worker.doctor.checks import EXPIRED_GRANTS, check_worker
from worker.doctor.database_checks import check_tenants
from worker.doctor.queue_checks import check_eviction, check_messages, check_releases
from worker.revoke.denial_monitoring import check_denials
from worker.revoke.revocation_rows import DenialRow
from worker.rules.tenant_config import Tenant, TenantConfig, TenantKey, WebhookEndpoint
from worker.shared.monitoring import Check, WaitingWork, check_waiting
from worker.uses.use_monitoring import ENDED_SLOTS
from worker.webhooks.turns import TurnKey
from worker.webhooks.webhook_monitoring import (
    WEBHOOKS,
    FailedManifests,
    check_endpoints,
    check_manifests,
    check_secrets,
)
from worker.webhooks.webhook_rules import EndpointHealth

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
# For how long what waits may do so, and what it is after that.
AGES = {
    WEBHOOKS: (timedelta(minutes=5), "warn"),
    EXPIRED_GRANTS: (timedelta(minutes=5), "fail"),
    ABANDONED_UPLOADS: (timedelta(minutes=15), "warn"),
    ENDED_SLOTS: (timedelta(days=1), "warn"),
}


def states(found: Iterable[Check]) -> list[str]:
    return [check.state for check in found]


def heartbeats(*releases: str) -> list[Heartbeat]:
    return [
        Heartbeat(f"issue@{number}", [], 1, 1, NOW, NOW, release=release)
        for number, release in enumerate(releases)
    ]


@pytest.mark.parametrize(
    "releases",
    [(), ("",), ("0.1.0", "0.1.0"), ("0.1.0", "0.1.3"), ("0.2.0", "0.1.0"), ("1.9.0rc1", "1.10.0")],
)
def test_one_release_or_two_that_follow_each_other_are_no_problem(releases: tuple[str]) -> None:
    assert list(check_releases(heartbeats(*releases))) == []


@pytest.mark.parametrize(
    "releases",
    [("0.1.0", "0.3.0"), ("0.9.0", "1.0.0"), ("0.1.0", "0.2.0", "0.2.1"), ("0.1.0", ""), ("", "x")],
)
def test_another_mix_of_releases_is_a_warning_with_the_workers_of_each(
    releases: tuple[str, ...],
) -> None:
    (check,) = check_releases(heartbeats(*releases))
    assert check.state == "warn"
    for number, release in enumerate(releases):
        assert f"{release or 'an unknown release'} on issue@{number}" in check.message


@pytest.mark.parametrize(
    ("work", "oldest", "state"),
    [
        *((work, None, "ok") for work in AGES),
        *((work, NOW - age, "ok") for work, (age, _) in AGES.items()),
        *((work, NOW - age - MICROSECOND, state) for work, (age, state) in AGES.items()),
        (EXPIRED_GRANTS, NOW + timedelta(days=1), "ok"),
    ],
)
def test_what_waits_for_too_long_is_a_problem(
    work: WaitingWork, oldest: datetime | None, state: str
) -> None:
    assert check_waiting(work, oldest, NOW).state == state


def test_webhooks_that_are_pending_say_since_when() -> None:
    young, late = (
        check_waiting(WEBHOOKS, NOW - timedelta(minutes=minutes), NOW) for minutes in (4, 6)
    )
    assert (young.state, young.message) == ("ok", "the oldest pending one was queued 4 minutes ago")
    assert (late.state, late.message) == ("warn", "the oldest pending one was queued 6 minutes ago")


@pytest.mark.parametrize(("policy", "found"), [("allkeys-lru", ["warn"]), (None, [])])
def test_a_server_that_drops_keys_is_a_warning(policy: str | None, found: list[str]) -> None:
    assert states(check_eviction("broker", policy)) == found


SECRET, OTHER = (f"whsec_{letter * 32}" for letter in "ab")
HOOK = WebhookEndpoint("hook", "https://hooks.example.com/in", "env:HOOK")
WITH_HOOK = TenantConfig(tenants={"acme": Tenant("acme", "queue", endpoints={"hook": HOOK})})


@pytest.mark.parametrize(
    ("content", "state", "words"),
    [
        (SECRET, "ok", "its webhook secret is available"),
        (f"{SECRET} until 2026-11-24 {OTHER}", "ok", "its webhook secret is available"),
        (f"{SECRET} until 2026-11-27T12:30:00.000001Z", "ok", "its webhook secret is available"),
        (f"{SECRET} until 2026-11-27T12:30Z", "warn", "its last webhook secret ends at 2026-11-27"),
        (
            f"{SECRET} until 2026-11-25 {OTHER} until 2026-11-26",
            "warn",
            "its last webhook secret ends at 2026-11-26",
        ),
        (f"{SECRET} until 2026-11-24", "warn", "its last webhook secret ended at 2026-11-24"),
        (f"{SECRET[:-9]}", "warn", "env:HOOK does not contain valid webhook secrets"),
    ],
)
def test_an_endpoint_for_which_nothing_will_sign_within_three_days_is_a_warning(
    content: str, state: str, words: str
) -> None:
    (check,) = check_secrets(WITH_HOOK, {"HOOK": content}, NOW)
    assert (check.check, check.state) == ("endpoints", state)
    assert check.message.startswith(f"acme/hook: {words}")
    assert content[6:20] not in f"{check.message}{check.hint}"


FAILING = EndpointHealth(0, None, NOW - timedelta(hours=2), NOW, "it responded with 404")
ENDPOINTS: dict[str, EndpointHealth] = {
    "acme/hook: failing, without a success for 2 hours: it responded with 404": FAILING,
    "acme/hook: paused, without a success for 2 hours: it responded with 404": FAILING._replace(
        failures=7, open_until=NOW + timedelta(minutes=2)
    ),
    "acme/hook: disabled 1 hour ago: it responded with 404": FAILING._replace(
        disabled_at=NOW - timedelta(hours=1)
    ),
    "acme/hook: disabled 1 hour ago by ann": EndpointHealth(
        disabled_at=NOW - timedelta(hours=1), disabled_by="ann"
    ),
}


@pytest.mark.parametrize("message", ENDPOINTS)
def test_an_endpoint_that_takes_no_webhooks_is_a_warning(message: str) -> None:
    states = {TurnKey("acme", "hook"): ENDPOINTS[message], TurnKey("acme", "removed"): FAILING}
    (check,) = check_endpoints(states, WITH_HOOK, NOW)
    assert (check.state, check.message) == ("warn", message)
    assert (check.hint or "").startswith("python -m worker webhooks test acme/hook")
    assert (check.hint or "").endswith("python -m worker webhooks enable acme/hook")


def test_an_endpoint_that_began_to_fail_is_no_warning_yet() -> None:
    state = FAILING._replace(failing_since=NOW - timedelta(minutes=5))
    assert list(check_endpoints({TurnKey("acme", "hook"): state}, WITH_HOOK, NOW)) == []


def test_a_tenant_that_trusts_the_queue_is_a_warning() -> None:
    key = TenantKey("billing", "S" * 43, "E" * 43)
    signing, trusting = Tenant("acme", keys={"billing": key}), Tenant("globex", "queue")
    assert states(check_tenants(TenantConfig(tenants={"acme": signing}), NOW)) == ["ok"]
    config = TenantConfig(tenants={"acme": signing, "globex": trusting})
    (check,) = check_tenants(config, NOW)
    assert (check.state, check.message.split()[0]) == ("warn", "globex")


def test_a_service_without_tenants_is_a_warning() -> None:
    assert states(check_tenants(TenantConfig(), NOW)) == ["warn"]


def test_discarded_messages_are_counted_and_no_fault_of_the_service() -> None:
    check = check_messages({"eta": 2, "json": 1_000}, 0)
    assert (check.state, check.message) == ("ok", "discarded so far: 2 for eta, 1,000 for json")


@pytest.mark.parametrize(
    ("code", "state"),
    [("own_clock", "fail"), ("children", "fail"), ("server_clock", "warn"), ("unknown", "warn")],
)
def test_what_a_worker_says_of_itself_is_reported(code: str, state: str) -> None:
    check = check_worker("issue@a", code, "words")
    assert (check.state, check.message) == (state, "issue@a: words")


def test_dead_letters_are_a_warning() -> None:
    check = check_messages({}, 3)
    assert check.state == "warn"
    assert check.hint == "python -m worker deadletters list"


def test_failed_manifests_are_a_warning_with_the_newest_problem() -> None:
    assert check_manifests(FailedManifests(0, None)).state == "ok"
    check = check_manifests(FailedManifests(3, "storage refused it: NoSuchBucket"))
    text = "3 failed in the last day; the newest: storage refused it: NoSuchBucket"
    assert (check.state, check.message) == ("warn", text)


CONFIG = TenantConfig({"demo": replace(DEMO, endpoint=None)})
HERE = DenialRow("sid", "demo", "valetkey-demo", "{}", datetime(2026, 11, 24, tzinfo=UTC), 480)
ELSEWHERE = HERE._replace(storage="moved")


def test_a_statement_that_denies_live_grants_is_no_warning() -> None:
    [check] = check_denials([HERE], [], CONFIG)
    text = "20,000 of 20,480 bytes are left of the policy of valetkey-demo"
    assert (check.state, check.message, check.hint) == ("ok", text, None)


@pytest.mark.parametrize(
    ("kept", "overdue", "warning"),
    [
        (
            *([HERE._replace(policy_bytes=18_433)], []),
            "2,047 of 20,480 bytes are left of the policy of valetkey-demo",
        ),
        (
            *([HERE._replace(policy_bytes=None)], []),
            "statements of revocations are not in the policy of valetkey-demo",
        ),
        ([], [HERE], "statements of revocations are not removed from valetkey-demo"),
        (
            *([ELSEWHERE], [ELSEWHERE]),
            "moved has statements of revocations, and no bucket profile leads to it",
        ),
    ],
    ids=["nearly full", "not in its policy", "to be removed", "no profile leads there"],
)
def test_a_policy_of_a_bucket_that_needs_attention_is_a_warning(
    kept: list[DenialRow], overdue: list[DenialRow], warning: str
) -> None:
    checks = check_denials(kept, overdue, CONFIG)
    assert [check.message for check in checks if check.state == "warn"] == [warning]
