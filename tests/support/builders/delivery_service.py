"""The service in this process, delivering webhooks of three tenants to hosts that do not exist."""

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select, update

from models import Delivery
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.fakes.webhook_client import FakeWebhookClient
from valetkey.webhooks import verify
from worker.base.database_engine import write_transaction
from worker.context import Context
from worker.core.tenant_config import TenantConfig, WebhookEndpoint
from worker.ledger.outbox import (
    Claim,
    DeliveryLease,
    DeliveryResult,
    due_endpoints,
    lease_deliveries,
    settle_delivery,
)
from worker.webhooks.webhook_delivery import deliver_due

TENANTS = ("acme", "globex", "initech")
SECRET = "whsec_" + base64.b64encode(bytes(32)).decode()
NO_JITTER = 0.5  # the middle of the range of retry delays


def hooks_config() -> TenantConfig:
    """Return a config in which each tenant has two endpoints, at hosts with their names."""
    acme = tenant_config().tenants["acme"]
    tenants = {
        name: replace(
            acme,
            name=name,
            endpoints={
                hook: WebhookEndpoint(hook, f"https://{name}.{hook}/", "env:HOOK")
                for hook in ("hook", "spare")
            },
        )
        for name in TENANTS
    }
    return TenantConfig(tenant_config().buckets, tenants)


def lease_delivery(connection: Connection, lease: str, now: datetime) -> DeliveryLease | None:
    """Lease one delivery that is due, as a process that sends webhooks does; None if none is."""
    for endpoint in due_endpoints(connection, now):
        return lease_deliveries(connection, Claim(endpoint, 1), lease, now)[0]
    return None


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
            webhook_client=lambda: client,
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
        query = select(Delivery).order_by(Delivery.delivery_number.desc()).limit(1)
        with write_transaction(self.engine) as connection:
            row = connection.execute(query).mappings().one()
            copy = {name: value for name, value in row.items() if name != "delivery_number"}
            if count > 1:
                connection.execute(insert(Delivery), [copy] * (count - 1))

    def deliver(self) -> tuple[int, int]:
        """Send what is due; count the delivered and undelivered attempts."""
        counts = deliver_due(self.context)
        return counts["delivered"], counts["undelivered"]

    def delivered(self, number: int = 0) -> dict[str, Any]:
        """Return the verified content of a webhook that was sent."""
        body, headers = self.client.bodies[number], self.client.headers[number]
        return verify(body, headers, SECRET, now=self.context.now())

    def lease(self) -> DeliveryLease | None:
        """Lease a delivery that is due, as a process that sends webhooks does."""
        with write_transaction(self.engine) as connection:
            return lease_delivery(connection, self.context.new_lease(), self.context.now())

    def settle(self, lease: DeliveryLease | None, result: DeliveryResult) -> bool:
        """Record the result of a leased delivery; tell whether the lease was still valid."""
        assert lease is not None
        with write_transaction(self.engine) as connection:
            return settle_delivery(connection, lease, result, self.context.now())

    def rows(self, tenant: str = "acme") -> list[Any]:
        """Return the deliveries of a tenant."""
        return [row for row in self.service.rows(Delivery) if row.tenant == tenant]

    def states(self, tenant: str = "acme") -> Counter[str]:
        """Count the deliveries of a tenant by their states."""
        return Counter(row.state for row in self.rows(tenant))

    def set_attempts(self, count: int) -> None:
        """Change the number of attempts of all deliveries."""
        with write_transaction(self.engine) as connection:
            connection.execute(update(Delivery).values(attempts=count))
