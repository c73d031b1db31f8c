"""Deliveries as they are listed: newest first, never more than a page."""

from datetime import datetime
from typing import Literal, NamedTuple

from sqlalchemy import Connection, case, select

from models import Batch, Delivery

DeliveryState = Literal["pending", "delivered", "failed"]


class DeliveryRecord(NamedTuple):
    """One chunk's outcome for one endpoint; status and problem are the last attempt's."""

    number: int
    tenant: str
    endpoint: str
    batch: str
    chunk: int
    state: str
    attempts: int
    next_attempt_at: datetime | None
    status: int | None
    problem: str | None
    created_at: datetime


def read_deliveries(
    connection: Connection,
    limit: int,
    *,
    state: DeliveryState | None = None,
    tenant: str | None = None,
    after: int | None = None,
) -> list[DeliveryRecord]:
    """Read a page, beginning behind one delivery's number; what is None is not asked."""
    conditions = (
        Delivery.state == state if state else None,
        Delivery.tenant == tenant if tenant else None,
        Delivery.number < after if after else None,
    )
    next_attempt_at = case((Delivery.state == "pending", Delivery.next_attempt_at))
    query = (
        select(
            *(Delivery.number, Delivery.tenant, Delivery.endpoint, Batch.id, Delivery.chunk),
            *(Delivery.state, Delivery.attempts, next_attempt_at, Delivery.status),
            *(Delivery.problem, Delivery.created_at),
        )
        .join(Batch, Batch.number == Delivery.batch)
        .where(*(condition for condition in conditions if condition is not None))
        .order_by(Delivery.number.desc())
        .limit(limit)
    )
    return [DeliveryRecord(*row) for row in connection.execute(query)]
