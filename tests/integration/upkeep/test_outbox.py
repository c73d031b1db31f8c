from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Delivery
from tests.integration.conftest import ApplyConfig
from tests.support.builders.deliveries import lease_delivery
from tests.support.builders.messages import Clock, batch_id, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from worker.context import Context
from worker.core.tenants.config import WebhookEndpoint
from worker.db.engine import read_transaction, write_transaction
from worker.db.outbox import (
    LEASE_TIME,
    REFUSAL_LIFETIME,
    DeliveryLease,
    DeliveryResult,
    settle_delivery,
)
from worker.usecases.upkeep.cleanup import clean_up

CONFIG = tenant_config(
    endpoints={"hook": WebhookEndpoint("hook", "https://example.com/", "env:HOOK")}
)


@pytest.fixture
def context(service: InProcessService) -> Context:
    """The context of a process that leases deliveries."""
    lease_numbers = iter(range(1_000))
    return replace(service.context, new_lease=lambda: str(next(lease_numbers)))


def lease(context: Context) -> DeliveryLease | None:
    with write_transaction(context.engine) as connection:
        return lease_delivery(connection, context.new_lease(), context.now())


def settle(context: Context, leased: DeliveryLease | None, result: DeliveryResult) -> bool:
    assert leased is not None
    with write_transaction(context.engine) as connection:
        return settle_delivery(connection, leased, result, context.now())


def deliveries(engine: Engine) -> list[Any]:
    with read_transaction(engine) as connection:
        return list(connection.execute(select(Delivery).order_by(Delivery.delivery_number)))


def test_a_message_with_a_known_callback_queues_its_delivery_once(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService
) -> None:
    apply_config(CONFIG)
    request = grant_message(callback="hook", batch=batch_id())
    service.issue(request)
    service.issue(request)
    assert len(deliveries(engine)) == 1


def test_the_schedule_ends_in_failure(
    context: Context,
    apply_config: ApplyConfig,
    service: InProcessService,
    engine: Engine,
    clock: Clock,
) -> None:
    apply_config(CONFIG)
    service.issue(grant_message(callback="hook"))
    settle(context, lease(context), DeliveryResult(500, "the endpoint responded with 500", None))
    clock.forward(days=30)
    assert lease(context) is None
    assert deliveries(engine)[0].state == "failed"


def test_a_delivery_is_leased_to_one_sender_until_its_lease_expires(
    context: Context, apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    apply_config(CONFIG)
    service.issue(grant_message(callback="hook"))
    assert lease(context) is not None
    assert lease(context) is None
    clock.time += LEASE_TIME
    assert lease(context) is not None


def test_a_sender_that_lost_its_lease_cannot_settle(
    engine: Engine,
    context: Context,
    apply_config: ApplyConfig,
    service: InProcessService,
    clock: Clock,
) -> None:
    apply_config(CONFIG)
    service.issue(grant_message(callback="hook"))
    expired = lease(context)
    clock.time += LEASE_TIME
    assert lease(context) is not None
    assert not settle(context, expired, DeliveryResult(200, None, None))
    assert deliveries(engine)[0].state == "pending"


@pytest.mark.parametrize(
    ("callbacks", "delivery_count"), [(None, 1), (("hook",), 1), (("other",), 0)]
)
def test_an_outcome_is_delivered_only_to_endpoints_that_the_policy_allows(
    engine: Engine,
    apply_config: ApplyConfig,
    service: InProcessService,
    callbacks: tuple[str, ...] | None,
    delivery_count: int,
) -> None:
    hooks = {
        name: WebhookEndpoint(name, "https://example.com/", "env:X") for name in ("hook", "other")
    }
    policy = replace(tenant_config().tenants["acme"].policies["demo"], callbacks=callbacks)
    apply_config(tenant_config(endpoints=hooks, policies={"demo": policy}))
    response = service.respond(grant_message(callback="hook"))
    assert response.has_webhook == (delivery_count == 1)
    assert len(deliveries(engine)) == delivery_count


def test_deliveries_whose_grants_have_expired_fail_even_if_they_are_never_attempted(
    engine: Engine,
    context: Context,
    apply_config: ApplyConfig,
    service: InProcessService,
    clock: Clock,
) -> None:
    apply_config(CONFIG)
    service.issue(grant_message(callback="hook"))  # for 300 seconds
    service.issue(grant_message(callback="hook", deadline="2020-01-01T00:00:00Z"))  # a refusal
    clock.forward(seconds=299)
    assert clean_up(context)["undelivered"] == 0
    clock.forward(seconds=1)
    assert clean_up(context)["undelivered"] == 1
    expired, refused = deliveries(engine)
    assert (expired.state, expired.problem) == ("failed", "its grants had expired")
    assert refused.state == "pending"
    clock.time += REFUSAL_LIFETIME
    assert clean_up(context)["undelivered"] == 1


def test_a_delivery_that_is_being_sent_does_not_fail_meanwhile(
    context: Context, apply_config: ApplyConfig, service: InProcessService, clock: Clock
) -> None:
    apply_config(CONFIG)
    service.issue(grant_message(callback="hook"))
    clock.forward(seconds=290)
    leased = lease(context)
    clock.forward(seconds=20)
    assert clean_up(context)["undelivered"] == 0
    assert settle(context, leased, DeliveryResult(204, None, None))
