"""The service in this process with an endpoint for webhooks about uploads."""

from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from threading import Event
from typing import Any

from sqlalchemy import select

from models import Delivery
from tests.support.builders.messages import Clock
from tests.support.builders.services import InProcessService
from tests.support.servers.webhook_receiver import (
    WebhookReceiver,
    respond_with,
)
from tests.support.uses.notified import (
    SECRET,
    delivering_context,
)
from valetkey.webhooks import UploadEvent, parse_upload_event, verify
from worker.core.uses.reports import UseReport
from worker.db.engine import read_transaction
from worker.usecases.upkeep.deliver import deliver_due
from worker.usecases.uses.record import RecordedUses, record_uses


class UploadHooks:
    """The service with an endpoint for webhooks, whose status the test changes."""

    def __init__(self, service: InProcessService, clock: Clock) -> None:
        self.status = 204
        self.is_open = Event()
        self.is_open.set()
        self.receiver = WebhookReceiver()
        self.service, self.clock = service, clock
        self.context = delivering_context(service)
        self.engine = service.context.engine

    def respond(self, handler: BaseHTTPRequestHandler) -> None:
        self.is_open.wait(30)
        respond_with(self.status)(handler)

    def issue(self, message: dict[str, Any]) -> list[str]:
        """Issue a request, deliver its outcome, and return the ids of its grants."""
        ids = [item["id"] for item in self.service.issue(message)["items"]]
        self.deliver()
        return ids

    def record(self, *reports: UseReport) -> RecordedUses:
        return record_uses(reports, self.context)

    def deliver(self) -> None:
        deliver_due(self.context)

    def pending(self) -> list[Any]:
        """Return the rows of all deliveries about uploads."""
        query = select(Delivery).where(Delivery.event.is_not(None))
        with read_transaction(self.engine) as connection:
            return list(connection.execute(query.order_by(Delivery.delivery_number)))

    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers in self.receiver.headers]

    def events(self) -> list[UploadEvent]:
        """Return the webhooks about uploads that the endpoint received, verified."""
        received = zip(self.receiver.bodies, self.receiver.headers, strict=True)
        tolerance = timedelta(days=1)
        payloads = [
            verify(body, headers, SECRET, now=self.clock(), tolerance=tolerance)
            for body, headers in received
        ]
        return [event for payload in payloads if (event := parse_upload_event(payload))]
