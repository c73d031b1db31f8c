"""Deliveries of webhooks: leased once, sent under today's config, at once and in fair turns.

An endpoint that fails repeatedly is called less often, and its webhooks lose no attempts.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from threading import Event
from typing import Any

import pytest
from opentelemetry.trace import SpanKind
from sqlalchemy import Connection
from structlog.testing import capture_logs

from models import EndpointState
from tests.support.builders.delivery_service import NO_RESPONSE, DeliveryService, hooks_config
from tests.support.builders.messages import DEMO, POLICY, Clock
from tests.support.servers.spans import recording_spans
from worker.base.database_engine import write_transaction
from worker.base.jobs import JobRun
from worker.base.stages import BOUNDS, SUM, take_sums
from worker.rules.tenant_config import TenantConfig
from worker.webhooks import webhook_delivery
from worker.webhooks.batch_completion import EVENT_LIFETIME
from worker.webhooks.endpoint_states import begin_probe
from worker.webhooks.outbox import (
    DELIVERY_LEASE_TIME,
    Claim,
    DeliveryLease,
    DeliveryResult,
    lease_deliveries,
    settle_delivery,
)
from worker.webhooks.turns import TurnKey, TurnLimits
from worker.webhooks.webhook_delivery import LIMITS, clean_up_webhooks, deliver_due
from worker.webhooks.webhook_rules import CIRCUIT_THRESHOLD, FIRST_CIRCUIT_PAUSE, RETRY_SCHEDULE

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
DEADLINE_PASSED = "2020-01-01T00:00:00Z"
PENDING = 50
UNUSABLE = replace(hooks_config(), buckets={"demo": replace(DEMO, bucket="no bucket")})


def fail(host: str) -> None:
    raise OverflowError(f"a detail that may be secret: {host}")


def config_with(**changes: Any) -> TenantConfig:
    config = hooks_config()
    return replace(config, tenants={"acme": replace(config.tenants["acme"], **changes)})


def config_with_policy(**changes: Any) -> TenantConfig:
    return config_with(policies={"demo": replace(POLICY, **changes)})


def test_an_outcome_and_a_refusal_are_delivered_signed_and_complete(
    webhooks: DeliveryService,
) -> None:
    for request in ({}, {"deadline": DEADLINE_PASSED}):
        outcome = webhooks.issue(["acme/a", "acme/../b"], **request)
        webhooks.deliver()
        sent = webhooks.delivered(-1)
        assert sent["type"] == "grants.decided"
        del outcome["quotas"]
        assert outcome.items() <= sent["data"].items()
    assert outcome["refusal"]["code"] == "deadline_passed"


@pytest.mark.parametrize(("status", "code"), [(204, 204), (503, 503), (NO_RESPONSE, None)])
def test_the_span_of_an_attempt_names_its_endpoint_and_no_url(
    webhooks: DeliveryService, status: int, code: int | None
) -> None:
    webhooks.issue(["acme/secret"])
    webhooks.client.statuses["acme.hook"] = status
    with recording_spans() as spans:
        webhooks.deliver()
    (span,) = spans.all()
    outcome = (
        {"error.type": "WebhookFailure"} if code is None else {"http.response.status_code": code}
    )
    names = {"valetkey.tenant": "acme", "valetkey.endpoint": "hook"}
    assert span.attributes == names | {"http.request.method": "POST"} | outcome
    assert (span.name, span.parent, span.kind) == ("webhook", None, SpanKind.CLIENT)


ONLY_B = config_with_policy(prefixes=("acme/b/",))
NARROWED: dict[str, tuple[TenantConfig, str | None, list[str | None]]] = {
    "some items": (ONLY_B, None, ["key_outside_prefix", None]),
    "the batch": (config_with(max_batch=1), "batch_too_large", []),
    "an unusable bucket": (UNUSABLE, "bucket_unusable", []),
}


@pytest.mark.parametrize(("config", "refusal", "items"), NARROWED.values(), ids=NARROWED)
def test_what_the_config_refuses_by_then_is_delivered_as_refused(
    webhooks: DeliveryService, config: TenantConfig, refusal: str | None, items: list[str | None]
) -> None:
    webhooks.issue(["acme/a", "acme/b/c"])
    webhooks.service.apply(config)
    webhooks.deliver()
    outcome = webhooks.delivered()["data"]
    assert outcome.get("refusal", {}).get("code") == refusal
    assert [item.get("code") for item in outcome["items"]] == items


NOT_ALLOWED = config_with_policy(callbacks=("other",))
UNSENT: dict[str, tuple[TenantConfig, int]] = {
    "the endpoint is no longer configured": (config_with(endpoints={}), 0),
    "the tenant's policy no longer allows this endpoint": (NOT_ALLOWED, 0),
    "its grants had expired": (hooks_config(), 5),
}


@pytest.mark.parametrize("problem", UNSENT)
def test_an_endpoint_that_the_config_no_longer_allows_and_expired_grants_are_sent_nothing(
    webhooks: DeliveryService, clock: Clock, problem: str
) -> None:
    config, minutes = UNSENT[problem]
    webhooks.issue()
    webhooks.service.apply(config)
    clock.forward(minutes=minutes)
    webhooks.deliver()
    assert webhooks.client.calls == []
    assert [(row.state, row.problem) for row in webhooks.rows()] == [("failed", problem)]


def test_a_delivery_is_signed_by_all_secrets_in_force_until_the_old_one_ends(
    webhooks: DeliveryService, clock: Clock
) -> None:
    end = (clock() + timedelta(minutes=1)).isoformat()
    rotated = f"whsec_{'n' * 32} whsk_{'k' * 43}= {webhooks.context.environ['HOOK']} until {end}"
    webhooks.context = replace(webhooks.context, environ={"HOOK": rotated})
    signatures = []
    for _ in range(2):
        webhooks.issue()
        webhooks.deliver()
        signed = webhooks.client.headers[-1]["webhook-signature"].split()
        signatures.append([signature.partition(",")[0] for signature in signed])
        clock.forward(minutes=1)
    assert signatures == [["v1", "v1a", "v1"], ["v1", "v1a"]]


def test_a_missing_secret_postpones_the_delivery_and_is_named(webhooks: DeliveryService) -> None:
    webhooks.context = replace(webhooks.context, environ={})
    webhooks.issue()
    webhooks.deliver()
    assert webhooks.client.calls == []
    (row,) = webhooks.rows()
    assert "env:HOOK" in row.problem
    assert row.state == "pending"


def test_the_delay_of_a_delivered_webhook_is_measured_from_its_first_attempt_on(
    webhooks: DeliveryService, clock: Clock
) -> None:
    webhooks.issue()
    take_sums()
    webhooks.client.statuses["acme.hook"] = 500
    webhooks.deliver()
    assert take_sums() == {}
    webhooks.client.statuses.clear()
    clock.forward(seconds=20)
    webhooks.deliver()
    ((place, _), total) = take_sums()["webhook_delay", ""]
    assert (BOUNDS[place], total) == (30.0, (SUM, 20_000_000))


def test_a_delivered_outcome_is_not_sent_again(webhooks: DeliveryService, clock: Clock) -> None:
    webhooks.issue()
    webhooks.deliver()
    clock.forward(days=1)
    webhooks.deliver()
    assert len(webhooks.client.calls) == 1
    assert [(row.state, row.status) for row in webhooks.rows()] == [("delivered", 204)]


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_failed_attempt_is_retried_after_the_delay_of_the_schedule(
    webhooks: DeliveryService, clock: Clock, status: int
) -> None:
    webhooks.client.statuses["acme.hook"] = status
    webhooks.issue()
    webhooks.deliver()
    webhooks.deliver()
    assert len(webhooks.client.calls) == 1
    (row,) = webhooks.rows()
    assert row.next_attempt_at == clock() + RETRY_SCHEDULE[1]
    assert row.problem == f"the endpoint responded with {status}"


def test_every_attempt_sends_the_same_id_and_grants(
    webhooks: DeliveryService, clock: Clock
) -> None:
    webhooks.client.statuses["acme.hook"] = 503
    webhooks.issue()
    webhooks.deliver()
    clock.forward(minutes=1)
    webhooks.deliver()
    first, second = webhooks.client.headers
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-timestamp"] != second["webhook-timestamp"]
    assert webhooks.client.bodies[0] == webhooks.client.bodies[1]


@pytest.mark.parametrize("retry_after", [None, timedelta(seconds=60)])
def test_an_endpoint_that_is_gone_is_not_called_again(
    webhooks: DeliveryService, clock: Clock, retry_after: timedelta | None
) -> None:
    webhooks.client.statuses["acme.hook"] = 410
    webhooks.client.retry_after = retry_after
    webhooks.issue()
    webhooks.deliver()
    clock.forward(days=30)
    assert webhooks.lease() is None
    assert webhooks.states() == {"failed": 1}


def test_a_delivery_is_leased_to_one_sender_until_its_lease_expires(
    webhooks: DeliveryService, clock: Clock
) -> None:
    webhooks.issue()
    expired = webhooks.lease()
    assert webhooks.lease() is None
    clock.time += DELIVERY_LEASE_TIME
    assert webhooks.lease() is not None
    assert not webhooks.settle(expired, DeliveryResult(200, None, None))
    assert webhooks.states() == {"pending": 1}


def test_deliveries_whose_grants_have_expired_fail_even_if_they_are_never_attempted(
    webhooks: DeliveryService, clock: Clock
) -> None:
    webhooks.issue()  # for 300 seconds
    webhooks.issue(deadline=DEADLINE_PASSED)  # a refusal
    clock.forward(seconds=299)
    assert clean_up_webhooks(webhooks.context)["undelivered"] == 0
    clock.forward(seconds=1)
    assert clean_up_webhooks(webhooks.context)["undelivered"] == 1
    expired, refused = webhooks.rows()
    assert (expired.state, expired.problem) == ("failed", "its grants had expired")
    assert refused.state == "pending"
    clock.time += EVENT_LIFETIME
    assert clean_up_webhooks(webhooks.context)["undelivered"] == 1


def test_a_delivery_being_sent_does_not_fail(webhooks: DeliveryService, clock: Clock) -> None:
    webhooks.issue()
    clock.forward(seconds=290)
    leased = webhooks.lease()
    clock.forward(seconds=20)
    assert clean_up_webhooks(webhooks.context)["undelivered"] == 0
    assert webhooks.settle(leased, DeliveryResult(204, None, None))


def test_a_backlog_of_one_tenant_delays_no_other(webhooks: DeliveryService) -> None:
    webhooks.queue("acme", 100)
    webhooks.queue("acme", 100, "spare")
    webhooks.queue("initech", 20)
    webhooks.queue("globex")
    assert webhooks.deliver() == (221, 0)
    assert webhooks.client.calls.index("globex.hook") < LIMITS.total


@ON_SQLITE
def test_an_endpoint_gets_at_most_four_webhooks_at_once(webhooks: DeliveryService) -> None:
    webhooks.queue("acme", 40)
    webhooks.deliver()
    assert webhooks.client.most_running <= LIMITS.per_key == 4


def test_a_webhook_due_meanwhile_is_sent_in_the_same_run(webhooks: DeliveryService) -> None:
    others = ["globex"]

    def queue_another(_host: str) -> None:
        with suppress(IndexError):
            webhooks.queue(others.pop())

    webhooks.client.on_call = queue_another
    webhooks.queue("acme", 3)
    assert webhooks.deliver() == (4, 0)


def hang_until(webhooks: DeliveryService, host: str, *steps: Callable[[], None]) -> None:
    """Let each call take one of the steps, and then hang until this host is called."""
    remaining, is_called = list(steps), Event()

    def respond(called: str) -> None:
        if called == host:
            is_called.set()
            return
        with suppress(IndexError):
            remaining.pop(0)()
        assert is_called.wait(10)

    webhooks.client.on_call = respond


@ON_SQLITE
def test_a_trigger_during_a_run_lets_it_look_for_deliveries_at_once(
    webhooks: DeliveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_delivery, "_SCAN_INTERVAL", 60)
    run = JobRun()

    def queue_another() -> None:
        webhooks.queue("globex")
        run.on_trigger()

    hang_until(webhooks, "globex.hook", queue_another)
    webhooks.queue("acme")
    assert deliver_due(webhooks.context, run)["delivered"] == 2


@ON_SQLITE
def test_slow_endpoints_leave_room_for_another_one_of_their_tenant(
    webhooks: DeliveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = TurnLimits(total=8, per_owner=4, per_key=4, suspects=2)
    monkeypatch.setattr(webhook_delivery, "LIMITS", limits)
    monkeypatch.setattr(webhook_delivery, "_SLOW_AFTER", 0)
    steps = (lambda: webhooks.queue("acme", 5), lambda: webhooks.queue("acme", hook="spare"))
    hang_until(webhooks, "acme.spare", *steps)
    webhooks.queue("acme")
    assert webhooks.deliver() == (7, 0)


@ON_SQLITE
def test_an_endpoint_that_was_slow_gets_few_places_for_a_while(
    webhooks: DeliveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    claims: list[Claim] = []

    def lease(connection: Connection, claim: Claim, *args: Any) -> list[DeliveryLease]:
        claims.append(claim)
        return lease_deliveries(connection, claim, *args)

    limits = TurnLimits(total=8, per_owner=8, per_key=4, suspects=1)
    monkeypatch.setattr(webhook_delivery, "LIMITS", limits)
    monkeypatch.setattr(webhook_delivery, "_SLOW_AFTER", 0)
    monkeypatch.setattr(webhook_delivery, "lease_deliveries", lease)
    hang_until(webhooks, "globex.hook", lambda: webhooks.queue("globex"))
    webhooks.queue("acme", 7)
    webhooks.deliver()
    assert [claim.max_rows for claim in claims if claim.endpoint.owner == "acme"] == [4, 1, 1, 1]


def test_an_unexpected_error_in_one_delivery_is_a_failed_attempt_and_stops_no_other(
    webhooks: DeliveryService,
) -> None:
    webhooks.client.on_call = lambda host: fail(host) if host == "acme.hook" else None
    webhooks.queue("acme", 2)
    webhooks.queue("globex", 3)
    with capture_logs() as logs:
        assert webhooks.deliver() == (3, 2)
    assert [entry["event"] for entry in logs] == ["delivery_failed"] * 2
    rows = webhooks.rows()
    assert {row.problem for row in rows} == {"an unexpected error: OverflowError"}
    assert {row.next_attempt_at for row in rows} == {webhooks.context.now() + RETRY_SCHEDULE[1]}


@ON_SQLITE
def test_an_unexpected_error_in_the_last_attempt_is_final(webhooks: DeliveryService) -> None:
    webhooks.client.on_call = fail
    webhooks.queue("acme")
    webhooks.set_attempts(len(RETRY_SCHEDULE) - 1)
    with capture_logs():
        webhooks.deliver()
    assert webhooks.states() == {"failed": 1}


@ON_SQLITE
def test_a_webhook_that_no_process_settles_fails_at_last(webhooks: DeliveryService) -> None:
    webhooks.queue("acme")
    webhooks.set_attempts(len(RETRY_SCHEDULE))
    webhooks.deliver()
    assert webhooks.states() == {"failed": 1}
    assert webhooks.client.calls == []


def test_one_result_that_cannot_be_written_does_not_keep_the_others_from_being_written(
    webhooks: DeliveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = 2

    def settle(connection: Any, delivery: Any, result: Any, now: Any) -> bool:
        if delivery.delivery_number == broken:
            raise ValueError
        return settle_delivery(connection, delivery, result, now)

    webhooks.queue("acme", 4)
    monkeypatch.setattr(webhook_delivery, "settle_delivery", settle)
    with capture_logs() as logs:
        webhooks.deliver()
    assert webhooks.states() == {"delivered": 3, "pending": 1}
    assert [entry["delivery"] for entry in logs] == [broken]


@pytest.fixture
def paused(webhooks: DeliveryService) -> DeliveryService:
    """Pending webhooks to an endpoint that has just been paused."""
    webhooks.client.statuses["acme.hook"] = NO_RESPONSE
    webhooks.queue("acme", PENDING)
    with capture_logs():
        webhooks.deliver()
    webhooks.client.calls.clear()
    return webhooks


@pytest.mark.parametrize("status", [NO_RESPONSE, 503])
def test_an_endpoint_that_fails_repeatedly_is_paused_and_no_attempts_are_used_up(
    webhooks: DeliveryService, status: int
) -> None:
    webhooks.client.statuses["acme.hook"] = status
    webhooks.queue("acme", PENDING)
    webhooks.queue("acme", 2, "spare")
    with capture_logs() as logs:
        webhooks.deliver()
        called = webhooks.client.calls.count("acme.hook")
        webhooks.deliver()
    assert CIRCUIT_THRESHOLD <= called < CIRCUIT_THRESHOLD + LIMITS.per_key
    assert webhooks.client.calls.count("acme.hook") == called
    assert webhooks.client.calls.count("acme.spare") == 2
    assert sum(row.attempts for row in webhooks.rows()) == called + 2
    assert [(entry["event"], entry["endpoint"]) for entry in logs] == [("endpoint_paused", "hook")]


@pytest.mark.parametrize("status", [302, 404, 429])
def test_an_endpoint_that_responds_is_not_paused(webhooks: DeliveryService, status: int) -> None:
    webhooks.client.statuses["acme.hook"] = status
    webhooks.queue("acme", PENDING)
    webhooks.deliver()
    assert len(webhooks.client.calls) == PENDING
    assert [row.failures for row in webhooks.service.rows(EndpointState)] == [0]


def test_after_a_pause_one_webhook_probes_the_endpoint(
    paused: DeliveryService, clock: Clock
) -> None:
    probes = []
    for pauses in (1, 1, 1, 2):
        clock.time += FIRST_CIRCUIT_PAUSE * pauses
        paused.deliver()
        probes.append(len(paused.client.calls))
    assert probes == [1, 1, 2, 2]


def test_a_response_to_the_probe_ends_the_pause(paused: DeliveryService, clock: Clock) -> None:
    paused.client.statuses["acme.hook"] = 204
    clock.time += FIRST_CIRCUIT_PAUSE
    paused.deliver()
    assert paused.states() == {"delivered": PENDING}
    assert paused.service.rows(EndpointState) == []


def test_an_endpoint_is_probed_by_one_process(paused: DeliveryService, clock: Clock) -> None:
    clock.time += FIRST_CIRCUIT_PAUSE
    with write_transaction(paused.engine) as connection:
        begun = [begin_probe(connection, TurnKey("acme", "hook"), clock()) for _ in range(2)]
    assert begun == [True, False]
    paused.deliver()
    assert paused.client.calls == []
