"""The service in this process, delivering webhooks of three tenants to hosts that do not exist."""

import base64
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from threading import Lock
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from models import Delivery
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.builders.services import InProcessService
from valetkey.webhooks import UnknownEvent, unwrap
from valetkey.wire.events import EventType
from worker.base.database_engine import read_transaction, write_transaction
from worker.context import Context
from worker.rules.tenant_config import TenantConfig, WebhookEndpoint
from worker.webhooks.endpoint_states import disable_endpoint, read_health
from worker.webhooks.outbox import (
    Claim,
    DeliveryLease,
    DeliveryResult,
    due_endpoints,
    lease_deliveries,
    settle_delivery,
)
from worker.webhooks.turns import TurnKey
from worker.webhooks.webhook_client import WebhookFailure, webhook_client
from worker.webhooks.webhook_connection import WebhookResponse
from worker.webhooks.webhook_delivery import deliver_due
from worker.webhooks.webhook_rules import EndpointHealth

TENANTS = ("acme", "globex", "initech")
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
NO_JITTER = 0.5  # the middle of the range of retry delays


def hooks_config(
    events: tuple[EventType, ...] | None = ("grants.decided",), **endpoint: Any
) -> TenantConfig:
    """Return a config in which each tenant has two endpoints, at hosts with their names."""
    acme = tenant_config().tenants["acme"]
    tenants = {
        name: replace(
            acme,
            name=name,
            endpoints={
                hook: WebhookEndpoint(
                    hook, f"https://{name}.{hook}/", "env:HOOK", events, **endpoint
                )
                for hook in ("hook", "spare")
            },
        )
        for name in TENANTS
    }
    return TenantConfig(tenant_config().buckets, tenants)


def repeat_delivery(engine: Engine, count: int) -> None:
    """Queue the last outcome again, as if each were of a batch of its own."""
    query = select(Delivery).where(Delivery.event == "grants.decided")
    query = query.order_by(Delivery.delivery_number.desc()).limit(1)
    with write_transaction(engine) as connection:
        row = connection.execute(query).mappings().one()
        copy = {name: value for name, value in row.items() if name != "delivery_number"}
        if count:
            connection.execute(insert(Delivery), [copy] * count)


def lease_delivery(connection: Connection, lease: str, now: datetime) -> DeliveryLease | None:
    """Lease one delivery that is due, as a process that sends webhooks does; None if none is."""
    for endpoint in due_endpoints(connection, now):
        return lease_deliveries(connection, Claim(endpoint, 1), lease, now)[0]
    return None


NO_RESPONSE = 0


class FakeWebhookClient:
    """A client that records the hosts, bodies and headers of its calls, and how many run at once.

    statuses contains the response of a host, or NO_RESPONSE; other hosts respond with 204. Each
    response has the same retry_after. Every host responds with 503 to a body that contains refused.
    on_call is called with each host before it responds.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: dict[str, int] = {}
        self.retry_after: timedelta | None = None
        self.refused: bytes | None = None
        self.on_call: Callable[[str], None] = lambda _: None
        self.most_running = 0
        self._running = 0
        self._lock = Lock()

    def post(self, url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
        """Record a call, and return the host's response."""
        host = url.split("/")[2]
        with self._lock:
            self.calls.append(host)
            self.bodies.append(body)
            self.headers.append(headers)
            self._running += 1
            self.most_running = max(self.most_running, self._running)
        try:
            self.on_call(host)
            status = self.statuses.get(host, 204)
            if self.refused is not None and self.refused in body:
                status = 503
            if status == NO_RESPONSE:
                raise WebhookFailure("timed_out", host)
            return WebhookResponse(status, self.retry_after)
        finally:
            with self._lock:
                self._running -= 1


class DeliveryService:
    """Queues deliveries and sends them through a fake client."""

    def __init__(self, service: InProcessService) -> None:
        service.apply(hooks_config())
        self.engine = service.engine
        self.service = service
        self.client = FakeWebhookClient()
        client: Any = self.client
        lease_numbers = iter(range(10_000))
        self.context: Context = replace(
            service.context,
            created={webhook_client: client},
            environ={"HOOK": SECRET},
            random=lambda: NO_JITTER,
            new_lease=lambda: str(next(lease_numbers)),
        )

    def issue(self, keys: Sequence[str] = ("acme/a",), **changes: Any) -> dict[str, Any]:
        """Issue a request of acme whose outcome is sent to the endpoint `hook`."""
        return self.service.issue(grant_message(keys, **{"callback": "hook"} | changes))

    def queue(self, tenant: str, count: int = 1, hook: str = "hook") -> None:
        """Queue a number of deliveries, as if each were of a batch of its own."""
        self.issue(tenant=tenant, callback=hook)
        repeat_delivery(self.engine, count - 1)

    def deliver(self) -> tuple[int, int]:
        """Send what is due; count the delivered and undelivered attempts."""
        counts = deliver_due(self.context)
        return counts["delivered"], counts["undelivered"]

    def delivered(self, number: int = 0) -> dict[str, Any]:
        """Return the content of a webhook that was sent, as JSON values.

        A receiver verifies it, and its class has all of its fields.
        """
        body, headers = self.client.bodies[number], self.client.headers[number]
        event = unwrap(body, headers, SECRET, now=self.context.now(), tolerance=timedelta(days=9))
        assert not isinstance(event, UnknownEvent)
        content: dict[str, Any] = json.loads(body)
        type(event).model_validate(content, extra="forbid")
        return content

    def lease(self) -> DeliveryLease | None:
        """Lease a delivery that is due, as a process that sends webhooks does."""
        with write_transaction(self.engine) as connection:
            return lease_delivery(connection, self.context.new_lease(), self.context.now())

    def settle(self, lease: DeliveryLease | None, result: DeliveryResult) -> bool:
        """Record the result of a leased delivery; tell whether the lease was still valid."""
        assert lease is not None
        with write_transaction(self.engine) as connection:
            return settle_delivery(connection, lease, result, self.context.now())

    def disable(self, hook: str = "hook") -> bool:
        """Disable an endpoint of acme, as an operator does."""
        key, config = TurnKey("acme", hook), self.context.config.current()
        with write_transaction(self.engine) as connection:
            return disable_endpoint(connection, key, config, self.context.now(), "ann")

    def health(self, hook: str = "hook") -> EndpointHealth:
        """Return the state of an endpoint of acme."""
        with read_transaction(self.engine) as connection:
            return read_health(connection).get(TurnKey("acme", hook), EndpointHealth())

    def rows(self, tenant: str = "acme") -> list[Any]:
        return [row for row in self.service.rows(Delivery) if row.tenant == tenant]

    def states(self, tenant: str = "acme") -> Counter[str]:
        return Counter(row.state for row in self.rows(tenant))

    def set_attempts(self, count: int) -> None:
        with write_transaction(self.engine) as connection:
            connection.execute(update(Delivery).values(attempts=count))
