"""The service in this process, delivering webhooks of three tenants to hosts that do not exist."""

import base64
from collections import Counter
from dataclasses import replace
from typing import Any

from sqlalchemy import Engine, func, insert, select, update

from models import Delivery
from tests.support.builders.messages import grant_message, tenant_config
from tests.support.builders.services import InProcessService
from tests.support.fakes.webhook_client import FakeWebhookClient
from worker.context import Context
from worker.core.tenants.config import TenantConfig, WebhookEndpoint
from worker.db.engine import read_transaction, write_transaction
from worker.usecases.upkeep.deliver import deliver_due

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


class DeliveryService:
    """Queues deliveries and sends them through a fake client."""

    def __init__(self, engine: Engine, service: InProcessService) -> None:
        self.engine = engine
        self.client = FakeWebhookClient()
        self._service = service
        client: Any = self.client
        self.context: Context = replace(
            service.context,
            webhook_client=lambda: client,
            environ={"HOOK": SECRET},
            random=lambda: NO_JITTER,
        )

    def queue(self, tenant: str, count: int = 1, hook: str = "hook") -> None:
        """Queue a number of deliveries, as if each were of a batch of its own."""
        self._service.issue(grant_message(tenant=tenant, callback=hook))
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

    def rows(self, tenant: str) -> list[Any]:
        """Return the deliveries of a tenant."""
        with read_transaction(self.engine) as connection:
            return list(connection.execute(select(Delivery).where(Delivery.tenant == tenant)))

    def states(self, tenant: str) -> Counter[str]:
        """Count the deliveries of a tenant by their states."""
        return Counter(row.state for row in self.rows(tenant))

    def attempts(self, tenant: str) -> int:
        """Return the number of attempts of all deliveries of a tenant."""
        query = select(func.sum(Delivery.attempts)).where(Delivery.tenant == tenant)
        with read_transaction(self.engine) as connection:
            return int(connection.scalar(query) or 0)

    def set_attempts(self, count: int) -> None:
        """Change the number of attempts of all deliveries."""
        with write_transaction(self.engine) as connection:
            connection.execute(update(Delivery).values(attempts=count))
