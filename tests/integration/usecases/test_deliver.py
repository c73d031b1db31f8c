import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, select

from models import Delivery
from tests.integration.conftest import Declare
from tests.support.builders import services
from tests.support.builders.messages import DEMO, POLICY, Clock, grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.servers.webhook_receiver import Answer, Receiver, answer, receiving
from valetkey.webhooks import verify
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Endpoint, TenantConfig
from worker.core.webhooks.retry import SCHEDULE
from worker.db.engine import read_transaction
from worker.db.ledger import Ledger
from worker.db.outbox import LEASE_TIME, DeliveryResult, Outbox
from worker.net.webhook_client import WebhookClient
from worker.usecases.deliver import Deliverer

SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
NO_JITTER = 0.5  # the middle of the spread


@pytest.fixture
def outbox(engine: Engine) -> Outbox:
    leases = iter(range(1_000))
    return Outbox(engine, lambda: str(next(leases)))


@pytest.fixture
def deliverer(engine: Engine, outbox: Outbox, clock: Clock) -> Deliverer:
    return Deliverer(
        outbox=outbox,
        ledger=Ledger(engine),
        reissuer=services.build_reissuer(engine, S3Clients(), clock),
        courier=WebhookClient(development=True),
        environ={"HOOK": SECRET},
        now=clock,
        jitter=lambda: NO_JITTER,
    )


def calling(port: int) -> TenantConfig:
    endpoint = Endpoint("hook", f"http://127.0.0.1:{port}/hook", "env:HOOK")
    return tenant_config(endpoints={"hook": endpoint})


@contextmanager
def issued(respond: Answer, declare: Declare, issuer: InProcessService) -> Iterator[Receiver]:
    """One request's outcome, waiting to be told to a receiver that answers so."""
    with receiving(respond) as receiver:
        declare(calling(receiver.port))
        issuer.issue(grant_message(callback="hook"))
        yield receiver


def delivery(engine: Engine) -> Any:
    with read_transaction(engine) as connection:
        return connection.execute(select(Delivery)).one()


def test_an_outcome_is_delivered_signed_and_complete(
    declare: Declare, issuer: InProcessService, deliverer: Deliverer, clock: Clock
) -> None:
    with receiving(answer(204)) as receiver:
        declare(calling(receiver.port))
        outcome = issuer.issue(grant_message(["acme/a", "acme/../b"], callback="hook"))
        deliverer.deliver_due()
    told = verify(receiver.bodies[0], receiver.headers[0], SECRET, now=clock())
    assert told == outcome


def test_what_policy_refuses_by_then_is_told_as_refused(
    declare: Declare, issuer: InProcessService, deliverer: Deliverer, clock: Clock
) -> None:
    with receiving(answer(204)) as receiver:
        wide = calling(receiver.port)
        declare(wide)
        issuer.issue(grant_message(["acme/a", "acme/b/c"], callback="hook"))
        narrow = {"demo": replace(POLICY, prefixes=("acme/b/",))}
        acme = replace(wide.tenants["acme"], policies=narrow)
        declare(replace(wide, tenants={"acme": acme}))
        deliverer.deliver_due()
    told = verify(receiver.bodies[0], receiver.headers[0], SECRET, now=clock())
    assert [item.get("code") for item in told["items"]] == ["key_outside_prefix", None]


def test_a_refused_batch_is_told_too(
    declare: Declare, issuer: InProcessService, deliverer: Deliverer, clock: Clock
) -> None:
    with receiving(answer(204)) as receiver:
        declare(calling(receiver.port))
        outcome = issuer.issue(
            grant_message(callback="hook", total=1, deadline="2020-01-01T00:00:00Z")
        )
        deliverer.deliver_due()
    assert outcome["refusal"]["code"] == "deadline_passed"
    assert verify(receiver.bodies[0], receiver.headers[0], SECRET, now=clock()) == outcome


def test_what_was_delivered_is_not_sent_again(
    engine: Engine, declare: Declare, issuer: InProcessService, deliverer: Deliverer, clock: Clock
) -> None:
    with issued(answer(200), declare, issuer) as receiver:
        deliverer.deliver_due()
        clock.forward(days=1)
        deliverer.deliver_due()
    assert len(receiver.bodies) == 1
    assert (delivery(engine).state, delivery(engine).status) == ("delivered", 200)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_a_failed_attempt_is_tried_again_after_the_schedules_pause(
    engine: Engine,
    declare: Declare,
    issuer: InProcessService,
    deliverer: Deliverer,
    clock: Clock,
    status: int,
) -> None:
    with issued(answer(status, Location="http://127.0.0.1:9/"), declare, issuer) as receiver:
        deliverer.deliver_due()
        deliverer.deliver_due()
    assert len(receiver.bodies) == 1
    assert delivery(engine).next_attempt_at == clock() + SCHEDULE[1]
    assert delivery(engine).problem == f"answered {status}"


def test_every_attempt_carries_the_same_id_and_the_same_grants(
    declare: Declare, issuer: InProcessService, deliverer: Deliverer, clock: Clock
) -> None:
    with issued(answer(503), declare, issuer) as receiver:
        deliverer.deliver_due()
        clock.forward(minutes=1)
        deliverer.deliver_due()
    first, second = receiver.headers
    assert first["webhook-id"] == second["webhook-id"]
    assert first["webhook-timestamp"] != second["webhook-timestamp"]
    assert receiver.bodies[0] == receiver.bodies[1]


def test_an_endpoint_that_is_gone_is_not_called_again(
    engine: Engine, declare: Declare, issuer: InProcessService, deliverer: Deliverer
) -> None:
    with issued(answer(410), declare, issuer):
        deliverer.deliver_due()
    assert delivery(engine).state == "failed"


def test_links_that_ended_are_not_sent(
    engine: Engine, declare: Declare, issuer: InProcessService, deliverer: Deliverer, clock: Clock
) -> None:
    with issued(answer(200), declare, issuer) as receiver:
        clock.forward(minutes=5)
        deliverer.deliver_due()
    assert receiver.bodies == []
    assert delivery(engine).problem == "its grants had expired"


def test_an_endpoint_that_is_no_longer_declared_gets_nothing(
    engine: Engine, declare: Declare, issuer: InProcessService, deliverer: Deliverer
) -> None:
    with issued(answer(200), declare, issuer) as receiver:
        declare(tenant_config())
        deliverer.deliver_due()
    assert receiver.bodies == []
    assert delivery(engine).state == "failed"


def test_grants_that_cannot_be_signed_again_are_told_to_be_refused(
    declare: Declare, issuer: InProcessService, deliverer: Deliverer, clock: Clock
) -> None:
    with issued(answer(200), declare, issuer) as receiver:
        known = calling(receiver.port)
        declare(TenantConfig({"demo": replace(DEMO, bucket="no bucket")}, known.tenants))
        deliverer.deliver_due()
    told = verify(receiver.bodies[0], receiver.headers[0], SECRET, now=clock())
    assert (told["refusal"]["code"], told["items"]) == ("bucket_unusable", [])


def test_a_missing_secret_postpones_and_is_named(
    engine: Engine, declare: Declare, issuer: InProcessService, deliverer: Deliverer
) -> None:
    deliverer._environ = {}
    with issued(answer(200), declare, issuer) as receiver:
        deliverer.deliver_due()
    assert receiver.bodies == []
    assert "env:HOOK" in delivery(engine).problem
    assert delivery(engine).state == "pending"


def test_the_schedule_ends_in_failure(
    outbox: Outbox, declare: Declare, issuer: InProcessService, engine: Engine, clock: Clock
) -> None:
    declare(calling(9))
    issuer.issue(grant_message(callback="hook"))
    parcel = outbox.take(clock())
    assert parcel is not None
    outbox.settle(parcel, DeliveryResult(500, "answered 500", None), clock())
    clock.forward(days=30)
    assert outbox.take(clock()) is None
    assert delivery(engine).state == "failed"


def test_a_delivery_is_taken_by_one_sender_until_its_lease_runs_out(
    outbox: Outbox, declare: Declare, issuer: InProcessService, clock: Clock
) -> None:
    declare(calling(9))
    issuer.issue(grant_message(callback="hook"))
    assert outbox.take(clock()) is not None
    assert outbox.take(clock()) is None
    clock.forward(seconds=LEASE_TIME / timedelta(seconds=1))
    assert outbox.take(clock()) is not None


def test_a_sender_that_lost_its_lease_cannot_report(
    engine: Engine, outbox: Outbox, declare: Declare, issuer: InProcessService, clock: Clock
) -> None:
    declare(calling(9))
    issuer.issue(grant_message(callback="hook"))
    slow = outbox.take(clock())
    clock.forward(seconds=LEASE_TIME / timedelta(seconds=1))
    assert outbox.take(clock()) is not None
    assert slow is not None
    assert not outbox.settle(slow, DeliveryResult(200, None, None), clock())
    assert delivery(engine).state == "pending"


@pytest.mark.parametrize(("callbacks", "deliveries"), [(None, 1), (("hook",), 1), (("other",), 0)])
def test_an_endpoint_hears_of_what_its_policy_lets_it_hear(
    engine: Engine,
    declare: Declare,
    issuer: InProcessService,
    callbacks: tuple[str, ...] | None,
    deliveries: int,
) -> None:
    hooks = {name: Endpoint(name, "https://example.com/", "env:X") for name in ("hook", "other")}
    policy = replace(tenant_config().tenants["acme"].policies["demo"], callbacks=callbacks)
    declare(tenant_config(endpoints=hooks, policies={"demo": policy}))
    heard = issuer.answer(grant_message(callback="hook"))
    assert heard.notifies == (deliveries == 1)
    with read_transaction(engine) as connection:
        assert len(connection.execute(select(Delivery)).all()) == deliveries
