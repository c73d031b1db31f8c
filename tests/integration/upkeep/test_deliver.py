import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Delivery
from tests.integration.conftest import ApplyConfig
from tests.support.builders.messages import DEMO, POLICY, Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.servers.webhook_receiver import (
    Responder,
    WebhookReceiver,
    respond_with,
    running_receiver,
)
from valetkey.webhooks import verify
from worker.context import Context
from worker.core.tenants.config import TenantConfig, WebhookEndpoint
from worker.core.webhooks.retry import SCHEDULE
from worker.db.engine import read_transaction
from worker.net.webhook_client import WebhookClient
from worker.usecases.upkeep.deliver import deliver_due

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
NO_JITTER = 0.5  # the middle of the range of retry delays


@pytest.fixture
def context(service: InProcessService) -> Context:
    """The context of a process that delivers webhooks."""
    lease_numbers = iter(range(1_000))
    return replace(
        service.context,
        webhook_client=cache(lambda: WebhookClient(development=True)),
        environ={"HOOK": SECRET},
        random=lambda: NO_JITTER,
        new_lease=lambda: str(next(lease_numbers)),
    )


def config_with_hook(port: int) -> TenantConfig:
    endpoint = WebhookEndpoint("hook", f"http://127.0.0.1:{port}/hook", "env:HOOK")
    return tenant_config(endpoints={"hook": endpoint})


@contextmanager
def issued(
    respond: Responder, apply_config: ApplyConfig, service: InProcessService
) -> Iterator[WebhookReceiver]:
    """Run a receiver with this responder, and issue a request whose delivery to it is due."""
    with running_receiver(respond) as receiver:
        apply_config(config_with_hook(receiver.port))
        service.issue(grant_message(callback="hook"))
        yield receiver


def delivery(engine: Engine) -> Any:
    with read_transaction(engine) as connection:
        return connection.execute(select(Delivery)).one()


def test_an_outcome_is_delivered_signed_and_complete(
    apply_config: ApplyConfig, service: InProcessService, context: Context, clock: Clock
) -> None:
    with running_receiver(respond_with(204)) as receiver:
        apply_config(config_with_hook(receiver.port))
        outcome = service.issue(grant_message(["acme/a", "acme/../b"], callback="hook"))
        deliver_due(context)
    assert verify(receiver.bodies[0], receiver.headers[0], SECRET, now=clock()) == outcome


def test_items_that_policy_refuses_by_then_are_delivered_as_refused(
    apply_config: ApplyConfig, service: InProcessService, context: Context, clock: Clock
) -> None:
    with running_receiver(respond_with(204)) as receiver:
        config = config_with_hook(receiver.port)
        apply_config(config)
        service.issue(grant_message(["acme/a", "acme/b/c"], callback="hook"))
        policies = {"demo": replace(POLICY, prefixes=("acme/b/",))}
        acme = replace(config.tenants["acme"], policies=policies)
        apply_config(replace(config, tenants={"acme": acme}))
        deliver_due(context)
    outcome = verify(receiver.bodies[0], receiver.headers[0], SECRET, now=clock())
    assert [item.get("code") for item in outcome["items"]] == ["key_outside_prefix", None]


def test_a_batch_that_policy_refuses_by_then_is_delivered_as_refused(
    apply_config: ApplyConfig, service: InProcessService, context: Context, clock: Clock
) -> None:
    with running_receiver(respond_with(204)) as receiver:
        config = config_with_hook(receiver.port)
        apply_config(config)
        service.issue(grant_message(["acme/a", "acme/b"], callback="hook"))
        acme = replace(config.tenants["acme"], max_batch=1)
        apply_config(replace(config, tenants={"acme": acme}))
        deliver_due(context)
    outcome = verify(receiver.bodies[0], receiver.headers[0], SECRET, now=clock())
    assert (outcome["refusal"]["code"], outcome["items"]) == ("batch_too_large", [])


def test_a_refused_batch_is_delivered_too(
    apply_config: ApplyConfig, service: InProcessService, context: Context, clock: Clock
) -> None:
    with running_receiver(respond_with(204)) as receiver:
        apply_config(config_with_hook(receiver.port))
        outcome = service.issue(
            grant_message(callback="hook", total=1, deadline="2020-01-01T00:00:00Z")
        )
        deliver_due(context)
    assert outcome["refusal"]["code"] == "deadline_passed"
    assert verify(receiver.bodies[0], receiver.headers[0], SECRET, now=clock()) == outcome


def test_a_delivered_outcome_is_not_sent_again(
    engine: Engine,
    apply_config: ApplyConfig,
    service: InProcessService,
    context: Context,
    clock: Clock,
) -> None:
    with issued(respond_with(200), apply_config, service) as receiver:
        deliver_due(context)
        clock.forward(days=1)
        deliver_due(context)
    assert len(receiver.bodies) == 1
    assert (delivery(engine).state, delivery(engine).status) == ("delivered", 200)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_failed_attempt_is_retried_after_the_delay_of_the_schedule(
    engine: Engine,
    apply_config: ApplyConfig,
    service: InProcessService,
    context: Context,
    clock: Clock,
    status: int,
) -> None:
    with issued(
        respond_with(status, Location="http://127.0.0.1:9/"), apply_config, service
    ) as receiver:
        deliver_due(context)
        deliver_due(context)
    assert len(receiver.bodies) == 1
    assert delivery(engine).next_attempt_at == clock() + SCHEDULE[1]
    assert delivery(engine).problem == f"the endpoint responded with {status}"


def test_every_attempt_sends_the_same_id_and_the_same_grants(
    apply_config: ApplyConfig, service: InProcessService, context: Context, clock: Clock
) -> None:
    with issued(respond_with(503), apply_config, service) as receiver:
        deliver_due(context)
        clock.forward(minutes=1)
        deliver_due(context)
    first, second = receiver.headers
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-timestamp"] != second["webhook-timestamp"]
    assert receiver.bodies[0] == receiver.bodies[1]


def test_an_endpoint_that_is_gone_is_not_called_again(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService, context: Context
) -> None:
    with issued(respond_with(410), apply_config, service):
        deliver_due(context)
    assert delivery(engine).state == "failed"


def test_expired_grants_are_not_sent(
    engine: Engine,
    apply_config: ApplyConfig,
    service: InProcessService,
    context: Context,
    clock: Clock,
) -> None:
    with issued(respond_with(200), apply_config, service) as receiver:
        clock.forward(minutes=5)
        deliver_due(context)
    assert receiver.bodies == []
    assert delivery(engine).problem == "its grants had expired"


def test_an_endpoint_that_is_no_longer_configured_gets_nothing(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService, context: Context
) -> None:
    with issued(respond_with(200), apply_config, service) as receiver:
        apply_config(tenant_config())
        deliver_due(context)
    assert receiver.bodies == []
    assert delivery(engine).state == "failed"


def test_an_endpoint_that_the_policy_no_longer_allows_gets_nothing(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService, context: Context
) -> None:
    with issued(respond_with(200), apply_config, service) as receiver:
        config = config_with_hook(receiver.port)
        policies = {"demo": replace(POLICY, callbacks=("other",))}
        acme = replace(config.tenants["acme"], policies=policies)
        apply_config(replace(config, tenants={"acme": acme}))
        deliver_due(context)
    assert receiver.bodies == []
    assert delivery(engine).state == "failed"
    assert delivery(engine).problem == "the tenant's policy no longer allows this endpoint"


def test_grants_that_cannot_be_signed_again_are_delivered_as_refused(
    apply_config: ApplyConfig, service: InProcessService, context: Context, clock: Clock
) -> None:
    with issued(respond_with(200), apply_config, service) as receiver:
        config = config_with_hook(receiver.port)
        apply_config(TenantConfig({"demo": replace(DEMO, bucket="no bucket")}, config.tenants))
        deliver_due(context)
    outcome = verify(receiver.bodies[0], receiver.headers[0], SECRET, now=clock())
    assert (outcome["refusal"]["code"], outcome["items"]) == ("bucket_unusable", [])


def test_a_missing_secret_postpones_the_delivery_and_is_named(
    engine: Engine, apply_config: ApplyConfig, service: InProcessService, context: Context
) -> None:
    context = replace(context, environ={})
    with issued(respond_with(200), apply_config, service) as receiver:
        deliver_due(context)
    assert receiver.bodies == []
    assert "env:HOOK" in delivery(engine).problem
    assert delivery(engine).state == "pending"


def test_an_endpoint_that_is_gone_is_not_called_again_though_it_names_a_time_to_retry(
    engine: Engine,
    apply_config: ApplyConfig,
    service: InProcessService,
    context: Context,
    clock: Clock,
) -> None:
    with issued(respond_with(410, **{"Retry-After": "60"}), apply_config, service) as receiver:
        deliver_due(context)
        clock.forward(seconds=61)
        deliver_due(context)
    assert len(receiver.bodies) == 1
    assert (delivery(engine).state, delivery(engine).problem) == ("failed", "the endpoint is gone")
