"""Webhooks to many endpoints: sent at once, within bounds, and in fair turns."""

from threading import Lock
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.builders.delivery_service import DeliveryService
from worker.core.webhooks.retry import SCHEDULE
from worker.db.outbox import settle_delivery
from worker.usecases.upkeep import deliver
from worker.usecases.upkeep.deliver import LIMITS

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)


def fail(host: str) -> None:
    raise OverflowError(f"a detail that may be secret: {host}")


def test_a_backlog_of_one_tenant_does_not_delay_the_single_webhook_of_another(
    webhooks: DeliveryService,
) -> None:
    webhooks.queue("acme", 300)
    webhooks.queue("acme", 300, "spare")
    webhooks.queue("initech", 100)
    webhooks.queue("globex")
    assert webhooks.deliver() == (701, 0)
    assert webhooks.client.calls.index("globex.hook") < LIMITS.total


@ON_SQLITE
def test_an_endpoint_gets_at_most_four_webhooks_at_once(webhooks: DeliveryService) -> None:
    webhooks.queue("acme", 40)
    webhooks.deliver()
    assert webhooks.client.most_running <= LIMITS.per_key == 4


def test_a_webhook_that_becomes_due_while_others_are_sent_is_sent_in_the_same_run(
    webhooks: DeliveryService,
) -> None:
    lock, queued = Lock(), list[bool]()

    def queue_another(_host: str) -> None:
        with lock:
            if not queued:
                queued.append(True)
                webhooks.queue("globex")

    webhooks.client.on_call = queue_another
    webhooks.queue("acme", 3)
    assert webhooks.deliver() == (4, 0)


def test_an_unexpected_error_in_one_delivery_is_a_failed_attempt_and_stops_no_other(
    webhooks: DeliveryService,
) -> None:
    webhooks.client.on_call = lambda host: fail(host) if host == "acme.hook" else None
    webhooks.queue("acme", 2)
    webhooks.queue("globex", 3)
    with capture_logs() as logs:
        assert webhooks.deliver() == (3, 2)
    assert [entry["event"] for entry in logs] == ["delivery_failed"] * 2
    rows = webhooks.rows("acme")
    assert {row.problem for row in rows} == {"an unexpected error: OverflowError"}
    assert {row.next_attempt_at for row in rows} == {webhooks.context.now() + SCHEDULE[1]}


@ON_SQLITE
def test_an_unexpected_error_in_the_last_attempt_is_final(webhooks: DeliveryService) -> None:
    webhooks.client.on_call = fail
    webhooks.queue("acme")
    webhooks.set_attempts(len(SCHEDULE) - 1)
    with capture_logs():
        webhooks.deliver()
    assert webhooks.states("acme") == {"failed": 1}


@ON_SQLITE
def test_a_webhook_that_no_process_could_settle_fails_after_the_last_attempt(
    webhooks: DeliveryService,
) -> None:
    webhooks.queue("acme")
    webhooks.set_attempts(len(SCHEDULE))
    webhooks.deliver()
    assert webhooks.states("acme") == {"failed": 1}
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
    monkeypatch.setattr(deliver, "settle_delivery", settle)
    with capture_logs() as logs:
        webhooks.deliver()
    assert webhooks.states("acme") == {"delivered": 3, "pending": 1}
    assert [entry["delivery"] for entry in logs] == [broken]
