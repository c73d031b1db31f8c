"""The oldest unfinished work in the database: pending webhooks and expired reservations."""

from datetime import datetime

from sqlalchemy import Connection, func, literal_column, select

from models import Delivery, Reservation

# Not a parameter: a partial index is used only if the statement itself contains this text.
_IS_PENDING = Delivery.state == literal_column("'pending'")


def count_pending_webhooks(connection: Connection) -> dict[tuple[str, str], int]:
    """Count the webhooks that are not sent yet, by tenant id and endpoint."""
    query = (
        select(Delivery.tenant, Delivery.endpoint, func.count())
        .where(_IS_PENDING)
        .group_by(Delivery.tenant, Delivery.endpoint)
    )
    rows = connection.execute(query)
    return {(tenant_id, endpoint): count for tenant_id, endpoint, count in rows}


def oldest_webhook_time(connection: Connection) -> datetime | None:
    """Return the time at which the oldest pending webhook was queued; None if none is pending."""
    return connection.scalar(select(func.min(Delivery.created_at)).where(_IS_PENDING))


def earliest_reservation_expiry(connection: Connection) -> datetime | None:
    """Return the earliest expiry of a reservation; None if there are no reservations.

    A time in the past means that the reservation has expired and is not released yet.
    """
    return connection.scalar(select(func.min(Reservation.expires_at)))
