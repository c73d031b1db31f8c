"""Endpoints that fail: each attempt is recorded, dead ones are disabled, and what waits is sent."""

from collections import Counter
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Event
from typing import Any

import pytest
from sqlalchemy import update
from structlog.testing import capture_logs

from models import Delivery, DeliveryAttempt, EndpointHour, EndpointState
from tests.support.builders.delivery_service import (
    NO_RESPONSE,
    DeliveryService,
    hooks_config,
    repeat_delivery,
)
from tests.support.builders.messages import Clock
from worker.base.database_engine import read_transaction, write_transaction
from worker.webhooks import outbox, webhook_delivery
from worker.webhooks.endpoint_states import (
    EndpointFigures,
    enable_endpoint,
    read_figures,
    record_results,
)
from worker.webhooks.outbox import DeliveryResult, bring_forward
from worker.webhooks.turns import TurnKey
from worker.webhooks.webhook_delivery import clean_up_webhooks
from worker.webhooks.webhook_monitoring import earliest_due_webhook
from worker.webhooks.webhook_rules import MAX_RETRY_DELAY, RETRY_SCHEDULE

HOOK, HALF_A_DAY = TurnKey("acme", "hook"), timedelta(hours=12)


@pytest.fixture
def hooks(webhooks: DeliveryService) -> DeliveryService:
    """Endpoints of which the spare one receives only news about the other."""
    config = hooks_config()
    endpoints = config.tenants["acme"].endpoints
    object.__setattr__(endpoints["spare"], "events", ("endpoint.disabled",))
    webhooks.service.apply(config)
    return webhooks


def queue_lasting(hooks: DeliveryService, count: int = 1) -> str:
    """Queue deliveries that do not expire with grants: of a refusal; return the batch's id."""
    outcome = hooks.issue(deadline="2020-01-01T00:00:00Z")
    repeat_delivery(hooks.engine, count - 1)
    return str(outcome["batch"])


def fail_for(hooks: DeliveryService, clock: Clock, *pauses: timedelta) -> None:
    """Let an attempt fail after each of the pauses."""
    for pause in pauses:
        clock.time += pause
        queue_lasting(hooks)
        hooks.deliver()


def attempts_of(hooks: DeliveryService) -> Counter[int]:
    """Count the attempts of deliveries to the endpoint."""
    return Counter({row.delivery_number: row.attempts for row in hooks.rows()})


def is_disabled(hooks: DeliveryService) -> bool:
    return hooks.health().disabled_at is not None


@pytest.mark.parametrize(
    ("status", "problem"), [(503, "the endpoint responded with 503"), (NO_RESPONSE, "timed_out")]
)
def test_each_failed_attempt_is_recorded_and_a_success_is_in_the_delivery_itself(
    hooks: DeliveryService, clock: Clock, status: int, problem: str
) -> None:
    hooks.client.statuses["acme.hook"] = status
    queue_lasting(hooks)
    started_at = clock()
    hooks.deliver()
    del hooks.client.statuses["acme.hook"]
    clock.forward(minutes=1)
    hooks.deliver()
    (attempt,) = hooks.service.rows(DeliveryAttempt)
    assert (attempt.status, attempt.attempted_at) == (status or None, started_at)
    assert problem in attempt.problem
    assert attempt.duration_ms >= 0
    (row,) = hooks.rows()
    assert (row.state, row.status, row.problem) == ("delivered", 204, None)
    assert row.duration_ms >= 0


def test_an_attempt_that_could_not_be_rendered_is_recorded_if_it_is_repeated(
    hooks: DeliveryService,
) -> None:
    hooks.context = replace(hooks.context, environ={})
    queue_lasting(hooks)
    hooks.deliver()
    (attempt,) = hooks.service.rows(DeliveryAttempt)
    assert "env:HOOK" in attempt.problem
    assert hooks.service.rows(EndpointHour) == []


def test_a_delivery_that_must_not_be_sent_is_no_attempt(hooks: DeliveryService) -> None:
    hooks.queue("acme")
    hooks.service.apply(hooks_config(("quota.warning",)))
    hooks.deliver()
    assert hooks.states() == {"failed": 1}
    assert hooks.service.rows(DeliveryAttempt) == []


@pytest.mark.parametrize(
    ("asked", "kept"), [(timedelta(hours=1),) * 2, (timedelta(days=30), MAX_RETRY_DELAY)]
)
def test_nothing_brings_a_delivery_forward_before_the_time_that_its_endpoint_asked_for(
    hooks: DeliveryService,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
    asked: timedelta,
    kept: timedelta,
) -> None:
    monkeypatch.setattr(outbox, "MAX_CHANGED", 1)
    hooks.client.statuses["acme.hook"], hooks.client.retry_after = 429, asked
    queue_lasting(hooks)
    hooks.deliver()
    (row,) = hooks.rows()
    assert row.not_before == row.next_attempt_at == clock() + kept
    clock.forward(minutes=1)
    with write_transaction(hooks.engine) as connection:
        assert bring_forward(connection, {HOOK: None}, clock()) == {}
    assert hooks.rows()[0].next_attempt_at == row.not_before


def test_a_delivery_is_brought_forward_to_the_time_that_its_endpoint_asked_for(
    hooks: DeliveryService, clock: Clock
) -> None:
    asked = timedelta(minutes=2)
    hooks.client.statuses["acme.hook"], hooks.client.retry_after = 429, asked
    queue_lasting(hooks)
    hooks.set_attempts(5)
    hooks.deliver()
    assert hooks.rows()[0].next_attempt_at > clock() + asked
    with write_transaction(hooks.engine) as connection:
        bring_forward(connection, {HOOK: None}, clock())
    assert hooks.rows()[0].next_attempt_at == clock() + asked


@pytest.mark.parametrize("status", [404, 503, NO_RESPONSE])
def test_an_endpoint_whose_attempts_all_failed_for_five_days_is_disabled(
    hooks: DeliveryService, clock: Clock, status: int
) -> None:
    hooks.client.statuses["acme.hook"] = status
    fail_for(hooks, clock, *[HALF_A_DAY] * 10)
    assert not is_disabled(hooks)
    with capture_logs() as logs:
        fail_for(hooks, clock, HALF_A_DAY)
    assert is_disabled(hooks)
    entry = {"event": "endpoint_disabled", "tenant": "acme", "endpoint": "hook"}
    expected = entry | {"reason": "failing", "log_level": "warning"}
    assert [each for each in logs if each["event"] == "endpoint_disabled"] == [expected]


def test_a_success_begins_the_five_days_anew(hooks: DeliveryService, clock: Clock) -> None:
    for status, days in ((404, 4), (204, 1), (404, 4)):
        hooks.client.statuses["acme.hook"] = status
        fail_for(hooks, clock, *[HALF_A_DAY] * 2 * days)
    assert not is_disabled(hooks)


def test_days_without_an_attempt_are_no_days_of_failures(
    hooks: DeliveryService, clock: Clock
) -> None:
    hooks.client.statuses["acme.hook"] = 404
    queue_lasting(hooks)
    hooks.set_attempts(len(RETRY_SCHEDULE) - 1)  # it is not tried again
    hooks.deliver()
    clock.forward(days=6)
    queue_lasting(hooks)
    hooks.deliver()
    assert not is_disabled(hooks)
    assert hooks.health().failing_since == clock()


def test_a_missing_secret_disables_no_endpoint(hooks: DeliveryService, clock: Clock) -> None:
    environ: Any = hooks.context.environ
    environ.clear()
    fail_for(hooks, clock, *[HALF_A_DAY] * 12)
    assert hooks.service.rows(EndpointState) == []


@pytest.fixture
def gone(hooks: DeliveryService) -> DeliveryService:
    """Deliveries to an endpoint that one of them found to be gone, which disabled it."""
    hooks.client.statuses["acme.hook"] = 410
    queue_lasting(hooks, 20)
    with capture_logs():
        hooks.deliver()
    hooks.client.statuses.clear()
    return hooks


def test_an_endpoint_that_is_gone_is_disabled_at_once_and_called_no_more(
    gone: DeliveryService, clock: Clock
) -> None:
    assert is_disabled(gone)
    called = len(gone.client.calls)
    assert called <= 5  # four at once, and one to the other endpoint
    clock.forward(days=2)
    assert gone.deliver() == (0, 0)
    assert gone.lease() is None or len(gone.client.calls) == called
    assert gone.states()["pending"] >= 16


def test_the_other_endpoints_are_informed_once_that_one_is_disabled(gone: DeliveryService) -> None:
    gone.deliver()
    (event,) = [row for row in gone.rows() if row.event == "endpoint.disabled"]
    assert (event.endpoint, event.state) == ("spare", "delivered")
    content = gone.delivered(gone.client.calls.index("acme.spare"))
    assert content["type"] == "endpoint.disabled"
    since = content["data"].pop("failing_since")
    assert since is not None
    problem = {"reason": "gone", "problem": "the endpoint is gone"}
    assert content["data"] == {"tenant": "acme", "endpoint": "hook"} | problem
    assert "." not in gone.client.headers[-1]["webhook-id"]


def test_what_waits_for_a_disabled_endpoint_is_not_overdue_and_expires(
    gone: DeliveryService, clock: Clock
) -> None:
    gone.deliver()
    with write_transaction(gone.engine) as connection:
        assert earliest_due_webhook(connection) is None
        expiry = {"expires_at": clock() + HALF_A_DAY}
        connection.execute(update(Delivery).values(expiry))
    clock.time += HALF_A_DAY
    clean_up_webhooks(gone.context)
    assert gone.states()["pending"] == 0
    assert is_disabled(gone)


def test_an_attempt_that_ends_later_does_not_enable_a_disabled_endpoint(
    hooks: DeliveryService, clock: Clock
) -> None:
    queue_lasting(hooks, 2)
    leases = [hooks.lease() for _ in range(2)]
    assert hooks.disable()
    assert not hooks.disable()
    results = [DeliveryResult(204, None, None, True), DeliveryResult(None, "no", None, False)]
    config = hooks.context.config.current()
    for lease, result in zip(leases, results, strict=True):
        assert lease is not None
        with write_transaction(hooks.engine) as connection:
            record_results(connection, [(lease, result)], config, clock())
    assert (hooks.health().disabled_by, hooks.health().failing_since) == ("ann", None)


def enable(hooks: DeliveryService) -> None:
    now = hooks.context.now()
    with write_transaction(hooks.engine) as connection:
        assert enable_endpoint(connection, HOOK, now)
        assert bring_forward(connection, {HOOK: None}, now) == {}


def test_an_enabled_endpoint_is_probed_by_one_delivery_which_releases_the_others(
    gone: DeliveryService,
) -> None:
    gone.client.calls.clear()
    gone.client.statuses["acme.hook"] = 503
    before = attempts_of(gone)
    enable(gone)
    with capture_logs():
        gone.deliver()
    assert gone.client.calls.count("acme.hook") == 1
    assert (attempts_of(gone) - before).total() <= 2  # with that of the other endpoint
    gone.client.statuses.clear()
    gone.disable()
    enable(gone)
    gone.deliver()
    assert gone.states()["pending"] == 0
    assert gone.service.rows(EndpointState) == []


def test_a_probe_that_must_not_be_sent_does_not_lengthen_the_pause(
    hooks: DeliveryService, clock: Clock
) -> None:
    hooks.client.statuses["acme.hook"] = 503
    queue_lasting(hooks, 8)
    hooks.deliver()
    assert hooks.health().open_until is not None
    hooks.client.statuses.clear()
    first = [row.delivery_number for row in hooks.rows()][:3]
    with write_transaction(hooks.engine) as connection:
        are_first = update(Delivery).where(Delivery.delivery_number.in_(first))
        connection.execute(are_first.values(event="quota.warning", next_attempt_at=clock()))
    clock.forward(seconds=6)
    hooks.deliver()
    assert hooks.states() == {"failed": 3, "delivered": 5}


@pytest.fixture
def outage(hooks: DeliveryService, clock: Clock) -> DeliveryService:
    """An endpoint that is back after eight minutes; its deliveries wait for 25 more minutes."""
    hooks.client.statuses["acme.hook"] = 404
    queue_lasting(hooks, 6)
    for _ in range(48):
        hooks.deliver()
        clock.forward(seconds=10)
    hooks.client.statuses.clear()
    hooks.client.calls.clear()
    waiting = [row.next_attempt_at - clock() for row in hooks.rows()]
    assert min(waiting) > timedelta(minutes=20)
    return hooks


def test_a_success_after_an_outage_brings_forward_what_waits(outage: DeliveryService) -> None:
    outage.queue("acme")
    assert outage.deliver() == (7, 0)
    assert outage.service.rows(EndpointState) == []


def test_what_expires_soonest_is_brought_forward_first(
    outage: DeliveryService, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_CHANGED", 2)
    numbers = [row.delivery_number for row in outage.rows()]
    soonest = [numbers[place] for place in (3, 0, 5, 1, 4)]
    with write_transaction(outage.engine) as connection:
        for place, number in enumerate(soonest):
            expiry = update(Delivery).where(Delivery.delivery_number == number)
            connection.execute(expiry.values(expires_at=clock() + timedelta(hours=place + 1)))
    rest: dict[TurnKey, Any] = {HOOK: outage.health().failing_since}
    order = []
    while rest:
        with write_transaction(outage.engine) as connection:
            rest = bring_forward(connection, rest, clock())
        due = [row for row in outage.rows() if row.next_attempt_at <= clock()]
        due.sort(key=lambda row: row.next_attempt_at)
        order += [row.delivery_number for row in due if row.delivery_number not in order]
    assert order == [*soonest, numbers[2]]


def test_a_delivery_that_is_being_sent_is_not_brought_forward(
    outage: DeliveryService, clock: Clock
) -> None:
    clock.forward(minutes=40)
    leased = outage.lease()
    assert leased is not None
    with write_transaction(outage.engine) as connection:
        bring_forward(connection, {HOOK: None}, clock())
    (row,) = [each for each in outage.rows() if each.delivery_number == leased.delivery_number]
    assert row.next_attempt_at > clock()
    assert outage.settle(leased, DeliveryResult(204, None, None))


def test_many_are_brought_forward_in_transactions_of_limited_size(
    outage: DeliveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MAX_CHANGED", 2)
    outage.queue("acme")
    assert outage.deliver() == (7, 0)


def test_others_are_sent_to_while_much_is_brought_forward(
    outage: DeliveryService, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_called, parts = Event(), list[bool]()

    def call(host: str) -> None:
        if host == "globex.hook":
            is_called.set()
        elif not parts:
            outage.queue("globex")

    def bring_part(*args: Any) -> dict[TurnKey, datetime | None]:
        parts.append(len(parts) < 3 or is_called.wait(10))
        return bring_forward(*args)

    outage.client.on_call = call
    monkeypatch.setattr(outbox, "MAX_CHANGED", 1)
    monkeypatch.setattr(webhook_delivery, "bring_forward", bring_part)
    outage.queue("acme")
    outage.deliver()
    assert len(parts) > 3
    assert all(parts)


def test_a_single_failure_among_successes_brings_nothing_forward(
    hooks: DeliveryService, clock: Clock
) -> None:
    hooks.client.refused = hooks.issue()["batch"].encode()
    hooks.deliver()
    (before,) = hooks.rows()
    clock.forward(seconds=3)
    hooks.queue("acme")
    hooks.deliver()
    assert hooks.rows()[0].next_attempt_at == before.next_attempt_at


@pytest.mark.parametrize("pause", [timedelta(seconds=35), timedelta(minutes=10)])
def test_a_delivery_that_always_fails_does_not_use_up_its_attempts_at_the_pace_of_others(
    hooks: DeliveryService, clock: Clock, pause: timedelta
) -> None:
    hooks.client.refused = queue_lasting(hooks).encode()
    with capture_logs():
        for _ in range(60):
            hooks.deliver()
            clock.time += pause
            hooks.queue("acme")
    attempts = hooks.rows()[0].attempts
    planned = sum(
        sum(RETRY_SCHEDULE[: count + 1], timedelta(0)) * 0.8 <= 60 * pause
        for count in range(len(RETRY_SCHEDULE))
    )
    assert planned <= attempts <= planned + 3


def test_the_attempts_of_an_hour_are_counted_for_each_endpoint(
    hooks: DeliveryService, clock: Clock
) -> None:
    hooks.queue("acme", 2)
    hooks.queue("globex")
    hooks.client.statuses["globex.hook"] = NO_RESPONSE
    hooks.deliver()
    hooks.queue("acme")
    hooks.deliver()
    clock.forward(hours=1)
    hooks.client.statuses["acme.hook"] = 404
    queue_lasting(hooks, 2)
    hooks.deliver()
    with read_transaction(hooks.engine) as connection:
        today = read_figures(connection, clock() - timedelta(days=1))
        this_hour = read_figures(connection, clock())
    figures = today[HOOK]
    assert (figures.succeeded, figures.failed, sum(figures.latencies)) == (3, 2, 5)
    silent = today[TurnKey("globex", "hook")]
    assert silent == EndpointFigures(0, 1, [0] * 24)  # no response has no time
    assert (this_hour[HOOK].succeeded, this_hour[HOOK].failed) == (0, 2)


@pytest.mark.parametrize("state", ["disabled", "paused"])
def test_what_waits_for_a_removed_endpoint_fails_at_once_whatever_its_state(
    hooks: DeliveryService, state: str
) -> None:
    queue_lasting(hooks, 6)
    if state == "disabled":
        hooks.disable()
    else:
        hooks.client.statuses["acme.hook"] = NO_RESPONSE
        with capture_logs():
            hooks.deliver()
    assert hooks.health().state[0] == state
    queue_lasting(hooks, 2)
    config = hooks_config()
    del config.tenants["acme"].endpoints["hook"]  # type: ignore[attr-defined]
    hooks.service.apply(config)
    hooks.client.calls.clear()
    clean_up_webhooks(hooks.context)
    hooks.deliver()
    problems = [row.problem for row in hooks.rows() if row.endpoint == "hook"]
    assert problems[-2:] == ["the endpoint is no longer configured"] * 2
    assert (hooks.client.calls, hooks.service.rows(EndpointState)) == ([], [])


def test_figures_are_kept_for_eight_days_and_states_for_seven(
    hooks: DeliveryService, clock: Clock
) -> None:
    hooks.client.statuses["acme.hook"] = 404
    queue_lasting(hooks)
    hooks.deliver()
    left = []
    for days in (6, 1, 1, 1):
        clock.forward(days=days)
        clean_up_webhooks(hooks.context)
        left.append([len(hooks.service.rows(each)) for each in (EndpointState, EndpointHour)])
    assert left == [[1, 1], [0, 1], [0, 0], [0, 0]]
