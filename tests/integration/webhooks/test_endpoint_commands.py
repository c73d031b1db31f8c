"""The commands that show, disable and enable endpoints, and what `webhooks show` says of one."""

import csv
import io
from typing import Any

import pytest
from click.testing import CliRunner, Result
from structlog.testing import capture_logs

from models import Delivery
from tests.support.builders.delivery_service import (
    NO_RESPONSE,
    SECRET,
    DeliveryService,
    hooks_config,
)
from tests.support.builders.messages import Clock
from tests.support.cli.groups import webhooks as group
from tests.support.cli.operator import json_rows, refusal

pytestmark = pytest.mark.usefixtures("at_clock")


def run(*words: str) -> Result:
    return CliRunner().invoke(group, words, prog_name="python -m worker webhooks")


def endpoint(name: str = "hook", *words: str) -> dict[str, Any]:
    """Return what `endpoints` says of an endpoint of acme."""
    rows = json_rows(run("endpoints", "--tenant", "acme", "--json", *words))
    return next(row for row in rows if row["endpoint"] == name)


@pytest.fixture
def broken(webhooks: DeliveryService, clock: Clock) -> DeliveryService:
    """An endpoint that took three webhooks, and does not respond to eight others."""
    webhooks.queue("acme", 3)
    webhooks.deliver()
    clock.forward(minutes=1)
    webhooks.client.statuses["acme.hook"] = NO_RESPONSE
    webhooks.queue("acme", 8)
    with capture_logs():
        webhooks.deliver()
    return webhooks


def test_each_endpoint_is_listed_with_its_state_and_the_figures_of_the_last_day(
    broken: DeliveryService, clock: Clock
) -> None:
    row, failed_at = endpoint(), clock().isoformat().replace("+00:00", "Z")
    clock.forward(minutes=1)
    attempted = sum(each.attempts for each in broken.rows()) - 3
    assert row.pop("p50_ms") <= row.pop("p95_ms") < 10_000
    assert row == {
        "tenant": "acme",
        "endpoint": "hook",
        "state": "paused",
        "since": failed_at,
        "succeeded": 3,
        "failed": attempted,
        "failed_at": failed_at,
        "problem": "timed_out: acme.hook",
        "pending": 8,
        "oldest_pending_at": failed_at,
    }
    unused = endpoint("spare")
    assert (unused["state"], unused["succeeded"], unused["p50_ms"]) == ("ok", 0, None)
    assert len(json_rows(run("endpoints", "--json"))) == 6


def test_an_operator_reads_the_endpoints_in_words(broken: DeliveryService, clock: Clock) -> None:
    clock.forward(minutes=8)
    output = run("endpoints", "--tenant", "acme").output
    (line,) = [line for line in output.splitlines() if line.startswith("acme/hook")]
    attempted = sum(each.attempts for each in broken.rows())
    words = [f"% of {attempted}", "paused for 8 minutes", "8 minutes ago: timed_out: acme.hook"]
    assert [word for word in words if word not in line] == []


def test_the_last_failure_stays_in_the_list_after_a_success(
    broken: DeliveryService, clock: Clock
) -> None:
    broken.client.statuses.clear()
    clock.forward(seconds=10)
    broken.deliver()
    row = endpoint()
    assert (row["state"], row["since"], row["pending"]) == ("ok", None, 0)
    assert row["problem"] == "timed_out: acme.hook"
    clock.forward(hours=25)
    assert endpoint()["succeeded"] == 0


@pytest.mark.usefixtures("broken")
def test_endpoints_are_printed_as_csv() -> None:
    output = run("endpoints", "--tenant", "acme", "--csv").stdout
    hook, _ = csv.DictReader(io.StringIO(output))
    assert (hook["endpoint"], hook["state"], hook["succeeded"]) == ("hook", "paused", "3")


def test_without_endpoints_the_list_says_so(webhooks: DeliveryService) -> None:
    config = webhooks.context.config.current()
    for tenant in config.tenants.values():
        object.__setattr__(tenant, "endpoints", {})
    webhooks.service.apply(config)
    assert "There are no endpoints" in run("endpoints").stderr


@pytest.mark.usefixtures("webhooks")
def test_the_list_of_an_unknown_tenant_is_refused() -> None:
    assert "did you mean 'acme'" in refusal(run("endpoints", "--tenant", "acne"))


def test_a_disabled_endpoint_receives_nothing_until_it_is_enabled(
    webhooks: DeliveryService, clock: Clock
) -> None:
    webhooks.queue("acme", 5)
    result = run("disable", "acme/hook")
    assert "acme/hook is disabled; 5 webhooks wait for it." in result.output
    assert webhooks.deliver() == (0, 0)
    clock.forward(minutes=2)
    row = endpoint()
    assert (row["state"], row["problem"], row["pending"]) == ("disabled", None, 5)
    assert "acme/hook is enabled." in run("enable", "acme/hook").output
    assert webhooks.deliver() == (5, 0)
    assert endpoint()["state"] == "ok"


def test_a_healthy_endpoint_that_was_disabled_and_enabled_is_ok(webhooks: DeliveryService) -> None:
    webhooks.disable()
    run("enable", "acme/hook")
    assert (endpoint()["state"], endpoint()["since"]) == ("ok", None)


def test_enabling_sends_what_waits_for_an_endpoint_that_was_never_disabled(
    webhooks: DeliveryService,
) -> None:
    webhooks.context.environ.clear()  # type: ignore[attr-defined]
    webhooks.queue("acme", 2)
    assert webhooks.deliver() == (0, 2)
    webhooks.context.environ["HOOK"] = SECRET  # type: ignore[index]
    assert webhooks.deliver() == (0, 0)
    assert "what waits for it is due now" in run("enable", "acme/hook").output
    assert webhooks.deliver() == (2, 0)


def test_enabling_a_paused_endpoint_probes_it_at_once(broken: DeliveryService) -> None:
    broken.client.statuses.clear()
    assert broken.deliver() == (0, 0)
    run("enable", "acme/hook")
    assert broken.deliver() == (8, 0)


@pytest.mark.usefixtures("webhooks")
def test_a_second_disable_or_enable_changes_no_state_and_says_so() -> None:
    assert "was not disabled" in run("enable", "acme/hook").output
    run("disable", "acme/hook")
    result = run("disable", "acme/hook")
    assert (result.exit_code, "was disabled before" in result.output) == (0, True)


def test_enabling_brings_forward_what_waits_and_probes_with_one(broken: DeliveryService) -> None:
    run("disable", "acme/hook")
    run("enable", "acme/hook")
    broken.client.calls.clear()
    with capture_logs():
        broken.deliver()
    assert len(broken.client.calls) == 1
    broken.client.statuses.clear()
    run("disable", "acme/hook")
    run("enable", "acme/hook")
    broken.deliver()
    assert broken.states() == {"delivered": 11}


UNKNOWN = {
    "acme/hok": "did you mean 'acme/hook'",
    "hook": "there is no endpoint",
    "acme": "there is no endpoint",
    "acme/hook/x": "there is no endpoint",
    "nobody/hook": "there is no endpoint",
    "": "there is no endpoint",
}


@pytest.mark.parametrize("command", ["disable", "enable"])
@pytest.mark.parametrize("name", UNKNOWN)
def test_an_unknown_endpoint_is_refused(webhooks: DeliveryService, command: str, name: str) -> None:
    assert UNKNOWN[name] in refusal(run(command, name))
    assert not webhooks.health().disabled_at


def test_a_webhook_is_shown_with_each_attempt(webhooks: DeliveryService, clock: Clock) -> None:
    batch = webhooks.issue()["batch"]
    for status in (503, 404, 204):
        webhooks.client.statuses["acme.hook"] = status
        webhooks.deliver()
        clock.forward(seconds=40)
    (row,) = webhooks.rows()
    (shown,) = json_rows(run("show", str(row.delivery_number), "--json"))
    log = [(each["status"], each["problem"]) for each in shown["log"]]
    problems = [(status, f"the endpoint responded with {status}") for status in (503, 404)]
    assert log == [*problems, (204, None)]
    assert all(each["duration_ms"] >= 0 for each in shown["log"])
    assert (shown["batch"], shown["attempts"], shown["state"]) == (batch, 3, "delivered")
    output = run("show", str(row.delivery_number)).output
    assert [word for word in ("delivered", "responded with 503", batch) if word not in output] == []


def test_a_webhook_without_a_batch_or_an_attempt_is_shown(webhooks: DeliveryService) -> None:
    webhooks.service.apply(webhooks.context.config.current())
    webhooks.queue("acme")
    assert webhooks.service.rows(Delivery)[0].attempts == 0
    (shown,) = json_rows(run("show", "1", "--json"))
    assert (shown["log"], shown["state"]) == ([], "pending")
    assert "attempted_at" not in run("show", "1").output


@pytest.mark.usefixtures("webhooks")
@pytest.mark.parametrize(
    "name", ["7", "0", "x", str(2**70), "", "acme-quota-warning-x", "acme\udc80", "\u0661"]
)
def test_an_unknown_webhook_is_refused(name: str) -> None:
    assert "ID" in refusal(run("show", name))


def test_a_webhook_is_found_by_the_id_that_its_receiver_got(webhooks: DeliveryService) -> None:
    webhooks.service.apply(hooks_config(None))
    webhooks.issue()
    webhooks.disable()
    webhooks.issue(callback="spare")
    while webhooks.deliver() != (0, 0):
        pass
    ids = {headers["webhook-id"] for headers in webhooks.client.headers}
    found = {each: json_rows(run("show", each, "--json"))[0] for each in ids}
    assert [row["webhook_id"] for row in found.values()] == list(found)
    events = {row["event"] for row in found.values()}
    assert events == {"endpoint.disabled", "grants.decided", "batch.completed"}
