"""Counts the webhooks that are not sent yet, by endpoint."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from models import Delivery
from worker.webhooks.batch_completion import PENDING
from worker.webhooks.turns import TurnKey


class PendingWebhooks(NamedTuple):
    """The webhooks that are not sent yet, and the time at which the oldest was queued."""

    number: int
    oldest_at: datetime | None


def pending_webhooks(connection: Connection) -> dict[TurnKey, PendingWebhooks]:
    """Return the webhooks that are not sent yet, by endpoint."""
    query = (
        select(Delivery.tenant, Delivery.endpoint, func.count(), func.min(Delivery.created_at))
        .where(Delivery.state == PENDING)
        .group_by(Delivery.tenant, Delivery.endpoint)
    )
    return {
        TurnKey(tenant_id, endpoint): PendingWebhooks(number, oldest_at)
        for tenant_id, endpoint, number, oldest_at in connection.execute(query)
    }


def count_pending_webhooks(connection: Connection) -> dict[tuple[str, str], int]:
    """Count the webhooks that are not sent yet, by tenant id and endpoint."""
    return {key: each.number for key, each in pending_webhooks(connection).items()}
