"""`webhooks resend`: what is sent again, with the same id, and what never is."""

from dataclasses import replace
from datetime import timedelta

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import update
from structlog.testing import capture_logs

from models import Delivery
from tests.support.builders.delivery_service import DeliveryService, hooks_config
from tests.support.builders.messages import DEMO, POLICY, Clock
from tests.support.cli.groups import webhooks as group
from tests.support.cli.operator import refusal
from valetkey.wire.events import WarnedQuota
from valetkey.wire.refusals import QuotaState
from worker.base.database_engine import write_transaction
from worker.revoke.revocation_rows import insert_revocation
from worker.rules.issued_grants import storage_name
from worker.webhooks.batch_completion import EVENT_LIFETIME
from worker.webhooks.commands import resend_command
from worker.webhooks.outbox import TenantEvent, insert_event
from worker.webhooks.webhook_delivery import clean_up_webhooks
from worker.webhooks.webhook_rules import RETRY_SCHEDULE

pytestmark = pytest.mark.usefixtures("at_clock")


def run(*words: str) -> Result:
    return CliRunner().invoke(group, ["resend", *words], prog_name="python -m worker webhooks")


def text_of(result: Result, exit_code: int = 0) -> str:
    """Return what the command printed, in a line."""
    assert result.exit_code == exit_code, result.output
    return " ".join(result.output.split())


def states(hooks: DeliveryService) -> list[str]:
    return [row.state for row in hooks.rows()]


@pytest.fixture
def delivered(webhooks: DeliveryService) -> DeliveryService:
    """Two delivered webhooks of different batches."""
    webhooks.issue()
    webhooks.issue()
    webhooks.deliver()
    return webhooks


def warn(hooks: DeliveryService, group_id: str) -> None:
    """Queue a webhook without links to the endpoint `hook`."""
    state = QuotaState(metric="grants", window="day", used=9, limit=10, warn_at=9)
    event = TenantEvent(
        "quota.warning", group_id, WarnedQuota(tenant="acme", quota=state, batch="b")
    )
    tenant, now = hooks_config(None).tenants["acme"], hooks.context.now()
    with write_transaction(hooks.engine) as connection:
        insert_event(connection, tenant, event, now, excluded="spare")


@pytest.fixture
def outage(webhooks: DeliveryService, clock: Clock) -> DeliveryService:
    """Two warnings, of which one was attempted ten times and one never, before they expired."""
    webhooks.service.apply(hooks_config(("quota.warning",)))
    webhooks.client.statuses["acme.hook"] = 404
    warn(webhooks, "first")
    webhooks.set_attempts(len(RETRY_SCHEDULE) - 1)
    webhooks.deliver()
    warn(webhooks, "second")
    webhooks.disable()
    clock.time += EVENT_LIFETIME
    clean_up_webhooks(webhooks.context)
    webhooks.client.statuses.clear()
    webhooks.client.calls.clear()
    return webhooks


def enable() -> None:
    CliRunner().invoke(group, ["enable", "acme/hook"])


def test_a_delivered_webhook_is_sent_again_with_the_same_id(delivered: DeliveryService) -> None:
    assert text_of(run("1")) == "1 is sent again."
    assert delivered.deliver() == (1, 0)
    ids = [headers["webhook-id"] for headers in delivered.client.headers]
    assert ids[2] in ids[:2]
    assert delivered.rows()[0].attempts == 1


def test_the_webhooks_of_a_batch_are_sent_again(delivered: DeliveryService) -> None:
    batch = delivered.delivered(1)["data"]["batch"]
    run("--batch", batch)
    assert delivered.deliver() == (1, 0)
    assert delivered.delivered(2)["data"]["batch"] == batch


@pytest.mark.parametrize(
    ("words", "sent"),
    [("--failed", ["pending", "failed"]), ("--missed", ["failed", "pending"]),
     ("--failed --missed", ["pending", "pending"])],
)  # fmt: skip
def test_what_failed_and_what_was_missed_are_told_apart(
    outage: DeliveryService, words: str, sent: list[str]
) -> None:
    enable()
    run(*words.split(), "--since", "8d")
    assert states(outage)[:2] == sent


def test_a_webhook_that_is_sent_again_has_all_its_attempts_and_a_new_end(
    outage: DeliveryService, clock: Clock
) -> None:
    enable()
    run("--failed", "--since", "8d")
    row = outage.rows()[0]
    assert (row.state, row.attempts, row.problem, row.status) == ("pending", 0, None, None)
    assert (row.next_attempt_at, row.finished_at) == (clock(), None)
    assert row.expires_at == clock() + EVENT_LIFETIME


def test_outcomes_keep_the_end_of_their_grants(delivered: DeliveryService, clock: Clock) -> None:
    ends = [row.expires_at for row in delivered.rows()]
    clock.forward(minutes=4)
    run("1", "2")
    assert [row.expires_at for row in delivered.rows()] == ends


def test_what_has_expired_is_counted_and_not_sent(delivered: DeliveryService, clock: Clock) -> None:
    clock.forward(minutes=5)
    text = "There is nothing to send again. 2 have expired, and are not sent."
    assert text in text_of(run("1", "2"), 1)
    delivered.issue()
    delivered.deliver()
    assert text_of(run("1", "2", "3")) == "1 is sent again. 2 have expired, and are not sent."
    assert states(delivered) == ["delivered", "delivered", "pending"]


ENDED = {
    "policy": "the tenant's policy no longer allows this endpoint",
    "expiry": "its grants had expired",
}


@pytest.mark.parametrize("reason", ENDED)
def test_what_may_no_longer_be_sent_at_the_attempt_is_recorded_as_ended(
    delivered: DeliveryService, clock: Clock, reason: str
) -> None:
    run("1", "2")
    delivered.client.calls.clear()
    if reason == "policy":
        config = hooks_config()
        acme = replace(
            config.tenants["acme"], policies={"demo": replace(POLICY, callbacks=("spare",))}
        )
        delivered.service.apply(replace(config, tenants={"acme": acme}))
    else:
        clock.forward(minutes=5)
    delivered.deliver()
    assert delivered.client.calls == []
    assert [row.problem for row in delivered.rows()] == [ENDED[reason]] * 2


def test_links_that_the_policy_no_longer_allows_are_sent_as_refusals(
    delivered: DeliveryService,
) -> None:
    config = hooks_config()
    acme = replace(config.tenants["acme"], policies={"demo": replace(POLICY, prefixes=("b/",))})
    delivered.service.apply(replace(config, tenants={"acme": acme}))
    run("1")
    delivered.deliver()
    (item,) = delivered.delivered(-1)["data"]["items"]
    assert (item["code"], "url" in item) == ("key_outside_prefix", False)


def test_links_that_were_revoked_are_sent_as_refusals(
    delivered: DeliveryService, clock: Clock
) -> None:
    revocation = {
        "revocation_id": "01932000-0000-4000-8000-000000000001",
        "target_kind": "key",
        "target": "acme/a",
        "bucket": "demo",
        "storage": storage_name(DEMO),
        "revoked_by": "ann",
        "reason": None,
        "revoked_at": clock(),
        "lapses_at": clock() + timedelta(days=1),
    }
    with write_transaction(delivered.engine) as connection:
        insert_revocation(connection, revocation, {"acme": 2}, [])
    run("1")
    delivered.deliver()
    (item,) = delivered.delivered(-1)["data"]["items"]
    assert (item["code"], "url" in item) == ("revoked", False)


def test_a_pending_webhook_is_sent_now(webhooks: DeliveryService, clock: Clock) -> None:
    webhooks.client.statuses["acme.hook"] = 404
    webhooks.issue()
    webhooks.deliver()
    run("1")
    (row,) = webhooks.rows()
    assert (row.next_attempt_at, row.attempts) == (clock(), 0)


def test_a_webhook_waits_for_as_long_as_its_endpoint_asked(
    webhooks: DeliveryService, clock: Clock
) -> None:
    webhooks.client.statuses["acme.hook"] = 429
    webhooks.client.retry_after = timedelta(minutes=2)
    webhooks.issue()
    webhooks.deliver()
    run("1")
    assert webhooks.rows()[0].next_attempt_at == clock() + timedelta(minutes=2)


def test_a_webhook_whose_endpoint_asked_to_wait_long_ago_is_due_now(
    webhooks: DeliveryService, clock: Clock
) -> None:
    webhooks.client.statuses["acme.hook"] = 429
    webhooks.client.retry_after = timedelta(minutes=2)
    webhooks.issue()
    webhooks.deliver()
    clock.forward(minutes=4)
    run("1")
    assert webhooks.rows()[0].next_attempt_at == clock()


def test_a_webhook_that_is_being_sent_or_waits_for_its_batch_is_not_sent_again(
    webhooks: DeliveryService,
) -> None:
    webhooks.issue()
    leased = webhooks.lease()
    webhooks.service.apply(hooks_config(("batch.completed",)))
    webhooks.issue()
    with write_transaction(webhooks.engine) as connection:
        waiting = update(Delivery).where(Delivery.event == "batch.completed")
        connection.execute(waiting.values(state="waiting"))
    numbers = [str(row.delivery_number) for row in webhooks.rows()]
    assert "There is nothing to send again." in text_of(run(*numbers), 1)
    assert [row.lease for row in webhooks.rows()] == [leased and leased.lease, None]


def test_the_webhooks_of_a_disabled_endpoint_are_refused(outage: DeliveryService) -> None:
    text = text_of(run("--failed", "--missed", "--since", "8d"), 1)
    assert "acme/hook is disabled" in text
    assert "webhooks enable acme/hook" in text
    assert states(outage)[:2] == ["failed", "failed"]


def test_a_tenant_and_an_endpoint_narrow_the_selection(webhooks: DeliveryService) -> None:
    for tenant, hook in (("acme", "hook"), ("acme", "spare"), ("globex", "hook")):
        webhooks.queue(tenant, 1, hook)
    webhooks.deliver()
    everything = ("1", "2", "3")
    for words in (("--tenant", "globex"), ("--tenant", "acme", "--endpoint", "spare")):
        assert text_of(run(*everything, *words)) == "1 is sent again."
    assert states(webhooks) == ["delivered", "pending"]
    assert webhooks.states("globex") == {"pending": 1}


@pytest.mark.parametrize("parts", [1_000, 2])
def test_more_than_a_thousand_need_a_yes(
    webhooks: DeliveryService, monkeypatch: pytest.MonkeyPatch, parts: int
) -> None:
    monkeypatch.setattr(resend_command, "MAX_CHANGED", parts)
    monkeypatch.setattr(resend_command, "_MAX_UNCONFIRMED", 4)
    webhooks.queue("acme", 5)
    webhooks.deliver()
    numbers = [str(row.delivery_number) for row in webhooks.rows()]
    assert "This would send 5 webhooks" in text_of(run(*numbers), 1)
    assert webhooks.states() == {"delivered": 5}
    assert text_of(run(*numbers, "--yes")) == "5 are sent again."
    assert webhooks.states() == {"pending": 5}


WRONG = {
    "": "name webhooks",
    "1 --batch x": "name webhooks",
    "--batch x --failed --since 1d": "name webhooks",
    "--failed": "need --since",
    "--since 1d": "or give --failed, --missed or both with --since",
    "--failed --since 1d --tenant acm": "there is no tenant 'acm': did you mean 'acme'?",
    "1 --since 1d": "need --since",
    "--failed --since tomorrow": "expected a duration",
    "--failed --since 2099-01-01": "is in the future",
    "7": "there is no webhook 7",
    "1 7": "there is no webhook 7",
    "x": "there is no webhook x",
    "1 0193c1b4-0000-7000-8000-000000000000-0": "there is no webhook 0193",
    "-1": "No such option",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_wrong_selection_is_refused_and_nothing_is_sent(
    delivered: DeliveryService, words: str
) -> None:
    assert WRONG[words] in refusal(run(*words.split()))
    assert states(delivered) == ["delivered", "delivered"]


@pytest.mark.usefixtures("delivered")
@pytest.mark.parametrize("words", ["--batch x", "--missed --since 1d", "1 --tenant globex"])
def test_a_selection_without_webhooks_says_so(words: str) -> None:
    assert "There is nothing to send again." in text_of(run(*words.split()), 1)


def test_an_outage_ends_with_everything_delivered_by_two_commands(
    outage: DeliveryService,
) -> None:
    with capture_logs():
        enable()
        run("--failed", "--missed", "--since", "8d")
        outage.deliver()
    hook = [row.state for row in outage.rows() if row.event == "quota.warning"]
    assert hook == ["delivered", "delivered"]
