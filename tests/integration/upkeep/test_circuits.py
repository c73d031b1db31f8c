"""An endpoint that fails repeatedly is called less often, and its webhooks lose no attempts."""

import pytest
from sqlalchemy import func, select
from structlog.testing import capture_logs

from models import EndpointCircuit
from tests.support.builders.delivery_service import DeliveryService
from tests.support.builders.messages import Clock
from tests.support.fakes.webhook_client import NO_RESPONSE
from worker.core.webhooks.circuit import FIRST_PAUSE, THRESHOLD
from worker.db.circuits import begin_probe
from worker.db.engine import read_transaction, write_transaction
from worker.jobs.turns import TurnKey
from worker.usecases.upkeep.deliver import LIMITS

PENDING = 50
HOOK = TurnKey("acme", "hook")


@pytest.fixture
def paused(webhooks: DeliveryService) -> DeliveryService:
    """Pending webhooks to an endpoint that has just been paused."""
    webhooks.client.statuses["acme.hook"] = NO_RESPONSE
    webhooks.queue("acme", PENDING)
    with capture_logs():
        webhooks.deliver()
    webhooks.client.calls.clear()
    return webhooks


def count_circuits(webhooks: DeliveryService) -> int:
    with read_transaction(webhooks.engine) as connection:
        return connection.scalar(select(func.count()).select_from(EndpointCircuit)) or 0


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
    assert THRESHOLD <= called < THRESHOLD + LIMITS.per_key
    assert webhooks.client.calls.count("acme.hook") == called
    assert webhooks.client.calls.count("acme.spare") == 2
    assert webhooks.attempts("acme") == called + 2
    assert [(entry["event"], entry["endpoint"]) for entry in logs] == [("endpoint_paused", "hook")]


@pytest.mark.parametrize("status", [302, 404, 429])
def test_an_endpoint_that_responds_is_not_paused(webhooks: DeliveryService, status: int) -> None:
    webhooks.client.statuses["acme.hook"] = status
    webhooks.queue("acme", PENDING)
    webhooks.deliver()
    assert len(webhooks.client.calls) == PENDING
    assert count_circuits(webhooks) == 0


def test_after_each_pause_one_webhook_probes_the_endpoint(
    paused: DeliveryService, clock: Clock
) -> None:
    probes = []
    for pause in (FIRST_PAUSE, FIRST_PAUSE, FIRST_PAUSE, FIRST_PAUSE * 2):
        clock.time += pause
        paused.deliver()
        probes.append(len(paused.client.calls))
    assert probes == [1, 1, 2, 2]


def test_a_response_to_the_probe_ends_the_pause(paused: DeliveryService, clock: Clock) -> None:
    paused.client.statuses["acme.hook"] = 204
    clock.time += FIRST_PAUSE
    paused.deliver()
    assert paused.states("acme") == {"delivered": PENDING}
    assert count_circuits(paused) == 0


def test_two_processes_do_not_probe_an_endpoint_at_the_same_time(
    paused: DeliveryService, clock: Clock
) -> None:
    clock.time += FIRST_PAUSE
    with write_transaction(paused.engine) as connection:
        assert begin_probe(connection, HOOK, clock())
        assert not begin_probe(connection, HOOK, clock())
    paused.deliver()
    assert paused.client.calls == []
