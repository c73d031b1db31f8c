"""The outbox: deliveries that are due. Only the holder of a delivery's lease may settle it."""

from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Connection, insert, select, update

from models import Delivery, Tenant, WebhookEndpoint
from worker.core.policy.decisions import ChunkRequest
from worker.db.tenants import has_id

# Longer than an HTTP exchange may take: a lease expires only if its process died or was suspended.
LEASE_TIME = timedelta(seconds=60)

_INSERT = insert(Delivery)


class DeliveryLease(NamedTuple):
    """A delivery, leased for LEASE_TIME. attempts includes the current one.

    url is empty if the endpoint or its tenant was removed from the tenant config.
    """

    delivery_number: int
    batch_number: int
    chunk_number: int
    url: str
    secret: str
    attempts: int
    lease: str


class DeliveryResult(NamedTuple):
    """The result of an attempt: an HTTP status, a problem or None, and the time of the next one."""

    status: int | None
    problem: str | None
    retry_at: datetime | None


def insert_delivery(
    connection: Connection, batch_number: int, request: ChunkRequest, now: datetime
) -> None:
    """Insert the delivery of a chunk's outcome, together with its grants."""
    values = {
        "batch_number": batch_number,
        "chunk_number": request.message.chunk,
        "tenant": request.tenant.id,
        "endpoint": request.message.callback,
        "state": "pending",
        "attempts": 0,
        "next_attempt_at": now,
        "created_at": now,
    }
    connection.execute(_INSERT, values)


def lease_delivery(connection: Connection, lease: str, now: datetime) -> DeliveryLease | None:
    """Lease the delivery that has been due for the longest time; return None if none is due."""
    due = (
        select(Delivery.delivery_number)
        .where(Delivery.state == "pending", Delivery.next_attempt_at <= now)
        .order_by(Delivery.next_attempt_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(Delivery)
        .where(Delivery.delivery_number == due)
        .values(lease=lease, next_attempt_at=now + LEASE_TIME, attempts=Delivery.attempts + 1)
        .returning(Delivery)
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    endpoint = connection.execute(
        select(WebhookEndpoint.url, WebhookEndpoint.secret)
        .join(Tenant, Tenant.name == WebhookEndpoint.tenant)
        .where(has_id(row.tenant), WebhookEndpoint.name == row.endpoint)
    ).one_or_none()
    url, secret = endpoint or ("", "")
    return DeliveryLease(
        delivery_number=row.delivery_number,
        batch_number=row.batch_number,
        chunk_number=row.chunk_number,
        url=url,
        secret=secret,
        attempts=row.attempts,
        lease=lease,
    )


def settle_delivery(
    connection: Connection, delivery: DeliveryLease, result: DeliveryResult, now: datetime
) -> bool:
    """Write the result of an attempt; return false if the lease was lost to another process."""
    if result.problem is None:
        state = {"state": "delivered", "finished_at": now}
    elif result.retry_at is None:
        state = {"state": "failed", "finished_at": now}
    else:
        state = {"next_attempt_at": result.retry_at}
    statement = (
        update(Delivery)
        .where(Delivery.delivery_number == delivery.delivery_number)
        .where(Delivery.lease == delivery.lease)
        .values(status=result.status, problem=result.problem, lease=None, **state)
    )
    return connection.execute(statement).rowcount == 1
