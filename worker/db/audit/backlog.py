"""What waits in the database for its time, as operators ask for it."""

from datetime import datetime

from sqlalchemy import Connection, func, select

from models import Delivery, Reservation

_PENDING = Delivery.state == "pending"


def pending_webhooks(connection: Connection) -> dict[tuple[str, str], int]:
    """Count the webhooks that are not sent yet, by tenant and endpoint."""
    query = (
        select(Delivery.tenant, Delivery.endpoint, func.count())
        .where(_PENDING)
        .group_by(Delivery.tenant, Delivery.endpoint)
    )
    return {(row[0], row[1]): row[2] for row in connection.execute(query)}


def oldest_webhook(connection: Connection) -> datetime | None:
    """When the oldest of the webhooks that are not sent yet was queued."""
    return connection.scalar(select(func.min(Delivery.created_at)).where(_PENDING))


def next_expiry(connection: Connection) -> datetime | None:
    """When the first of what is held lapses, or should have been released."""
    return connection.scalar(select(func.min(Reservation.ends_at)))
