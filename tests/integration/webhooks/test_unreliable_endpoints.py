"""Webhooks over HTTPS to endpoints that fail: each is delivered, or recorded as failed.

Time is simulated, except the timeouts of the client.
"""

import gzip
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from random import Random
from threading import Lock
from typing import Any

import pytest
from sqlalchemy import func, select

from models import Batch, Delivery
from tests.support.builders.delivery_service import SECRET, TENANTS
from tests.support.builders.messages import (
    POLICY,
    Clock,
    download_message,
    grant_message,
    tenant_config,
)
from tests.support.builders.services import InProcessService
from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.webhook_receiver import (
    Responder,
    WebhookReceiver,
    drip_headers,
    respond_with,
    running_receiver,
    stream_body,
)
from tests.support.webhooks.unreliable_endpoint import FAULTS, EventKey, UnreliableEndpoint
from valetkey.wire.events import EventType
from worker.base.database_engine import read_transaction
from worker.rules.tenant_config import TenantConfig, WebhookEndpoint
from worker.webhooks.webhook_client import WebhookClient, webhook_client
from worker.webhooks.webhook_delivery import MAX_ATTEMPTS, clean_up_webhooks, deliver_due
from worker.webhooks.webhook_events import EXPIRED

pytestmark = pytest.mark.slow

HOST = "hooks.example"
DAY = 86_400
OUTAGE = timedelta(hours=60)
BATCHES = 500  # before and in the outage; each has two webhooks


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


def https_client(authority: CertificateAuthority, seconds: float) -> WebhookClient:
    return WebhookClient(
        development=True,
        resolve=lambda _host, _port: [ip_address("127.0.0.1")],
        ssl_context=authority.client_context,
        timeout=timedelta(seconds=seconds),
    )


def hooks_at(port: int, *names: str, events: tuple[EventType, ...] | None = None) -> TenantConfig:
    """Return a config in which each tenant has endpoints of these names at a port."""
    policy = replace(POLICY, max_expires_in=7 * DAY)
    endpoints = {
        name: WebhookEndpoint(name, f"https://{HOST}:{port}/{name}", "env:HOOK", events)
        for name in names
    }
    bare = tenant_config(policies={"demo": policy}, endpoints=endpoints)
    acme = bare.tenants["acme"]
    return TenantConfig(bare.buckets, {name: replace(acme, name=name) for name in TENANTS})


class Sender:
    """The service, whose webhooks go to an endpoint over HTTPS while the test moves the clock."""

    def __init__(
        self,
        service: InProcessService,
        clock: Clock,
        client: WebhookClient,
        endpoint: UnreliableEndpoint,
        receiver: WebhookReceiver,
    ) -> None:
        self._service = service
        self._clock = clock
        self._context = replace(
            service.context,
            created={webhook_client: client},
            environ={"HOOK": SECRET},
            random=Random(1).random,
        )
        self._endpoint = endpoint
        self._receiver = receiver
        self._verified = 0

    def issue(self, seconds: int, number: int) -> None:
        tenant, hook = TENANTS[number % 3], f"hook{number % 2}"
        message = download_message(expires_in=seconds) | {"tenant": tenant, "callback": hook}
        assert self._service.issue(message)["status"] == "issued"

    def deliver_until(self, end: datetime | None) -> None:
        """Deliver until nothing is pending, or until the end; steps of the clock become longer."""
        start = self._clock()
        while self._is_pending() and (end is None or self._clock() < end):
            deliver_due(self._context)
            self._verify_received()
            clean_up_webhooks(self._context)
            passed = self._clock() - start
            self._clock.time += max(timedelta(seconds=5), passed / 8)

    def _is_pending(self) -> bool:
        query = select(func.count()).where(Delivery.state.in_(["pending", "waiting"]))
        with read_transaction(self._service.engine) as connection:
            return bool(connection.scalar(query))

    def _verify_received(self) -> None:
        count = len(self._receiver.bodies)
        for number in range(self._verified, count):
            self._endpoint.verify(self._receiver.bodies[number], self._receiver.headers[number])
        self._verified = count

    def rows(self) -> dict[EventKey, Any]:
        """Return the deliveries by type and batch."""
        query = select(Batch.batch_id, *Delivery.__table__.c).join(
            Batch, Batch.batch_number == Delivery.batch_number
        )
        with read_transaction(self._service.engine) as connection:
            return {(row.event, row.batch_id): row for row in connection.execute(query)}


@pytest.fixture
def _library_clock(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let receivers compare timestamps with the simulated time."""

    class SimulatedDatetime(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:  # noqa: ARG003 - as datetime.now
            return clock()

    monkeypatch.setattr("standardwebhooks.webhooks.datetime", SimulatedDatetime)


@pytest.fixture
def endpoint() -> UnreliableEndpoint:
    return UnreliableEndpoint()


@pytest.fixture
def sender(
    service: InProcessService,
    clock: Clock,
    authority: CertificateAuthority,
    endpoint: UnreliableEndpoint,
    _library_clock: None,
) -> Iterator[Sender]:
    with running_receiver(endpoint.respond, authority.server_context(HOST)) as receiver:
        service.apply(hooks_at(receiver.port, "hook0", "hook1"))
        yield Sender(service, clock, https_client(authority, 0.5), endpoint, receiver)


@pytest.mark.timeout(600)
def test_webhooks_to_a_bad_endpoint_and_in_an_outage_are_delivered_or_recorded_as_expired(
    sender: Sender, clock: Clock, endpoint: UnreliableEndpoint
) -> None:
    for number in range(BATCHES):
        sender.issue(7 * DAY, number)
    sender.deliver_until(None)
    assert endpoint.responses.keys() == FAULTS.keys() | {"none"}

    endpoint.is_down = True
    for number in range(BATCHES):
        sender.issue((1 if number % 4 == 0 else 6) * DAY, number)
    sender.deliver_until(clock() + OUTAGE)
    endpoint.is_down = False
    sender.deliver_until(None)

    rows = sender.rows()
    assert len(rows) == 4 * BATCHES
    delivered = {key for key, row in rows.items() if row.state == "delivered"}
    assert delivered <= {key for key, ids in endpoint.ids.items() if ids <= endpoint.accepted}
    unsent = [row for key, row in rows.items() if key not in delivered]
    assert {row.state for row in unsent} == {"failed"}
    expired = [row for row in unsent if row.problem == EXPIRED]
    assert len(expired) == BATCHES / 4
    assert all(row.attempts == MAX_ATTEMPTS for row in unsent if row not in expired)
    assert all(len(ids) == 1 for ids in endpoint.ids.values())
    assert len(set.union(*endpoint.ids.values())) == len(endpoint.ids)


HOSTILE: dict[str, Responder] = {
    "gzip-bomb": stream_body(gzip.compress(bytes(2**20)) * 10),
    "endless-headers": drip_headers,
    "slow-body": stream_body(b"x", pause=0.05),
    "endless-body": stream_body(bytes(2**16)),
}
SLOW = {"endless-headers", "slow-body"}
GOOD = 40  # webhooks to the good endpoint


class Neighbours:
    """Hostile endpoints and a good one at one port, and how many requests of each are open."""

    def __init__(self) -> None:
        self.open: set[str] = set()
        self.open_at_end: set[str] = set()
        self._received = 0
        self._lock = Lock()

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        name = handler.path.removeprefix("/")
        if name == "good":
            with self._lock:
                self._received += 1
                if self._received == GOOD:
                    self.open_at_end = set(self.open)
            respond_with(204)(handler)
            return
        self.open.add(name)
        try:
            HOSTILE[name](handler)
        finally:
            self.open.discard(name)


def test_hostile_responses_are_cut_off_and_delay_no_other_endpoint_of_their_tenant(
    service: InProcessService, authority: CertificateAuthority
) -> None:
    neighbours = Neighbours()
    client = https_client(authority, 5)
    context = replace(service.context, created={webhook_client: client}, environ={"HOOK": SECRET})
    with running_receiver(neighbours.respond, authority.server_context(HOST)) as receiver:
        config = hooks_at(receiver.port, "good", *HOSTILE, events=("grants.decided",))
        service.apply(config)
        for name in [*HOSTILE] * 4 + ["good"] * GOOD:
            service.issue(grant_message(callback=name))
        tracemalloc.start()
        deliver_due(context)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 2**24
    assert neighbours.open_at_end >= SLOW
    states = {(row.endpoint, row.state) for row in service.rows(Delivery.endpoint, Delivery.state)}
    taken = {"good", *HOSTILE} - SLOW
    assert states == {(name, "delivered") for name in taken} | {(name, "pending") for name in SLOW}
