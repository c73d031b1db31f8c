"""Leases of deliveries, as a process that sends webhooks takes them."""

from datetime import datetime

from sqlalchemy import Connection

from worker.db.outbox import Claim, DeliveryLease, due_endpoints, lease_deliveries


def lease_delivery(connection: Connection, lease: str, now: datetime) -> DeliveryLease | None:
    """Lease one delivery that is due; return None if none is."""
    for endpoint in due_endpoints(connection, now):
        return lease_deliveries(connection, Claim(endpoint, 1), lease, now)[0]
    return None
