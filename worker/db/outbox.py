"""What still has to be told to endpoints. A row is sent by whoever holds its lease."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Engine, select, update

from models import Delivery, Endpoint
from worker.db.engine import write_transaction

# Longer than an exchange may take: a lease only runs out on a process that died or stood still.
LEASE_TIME = timedelta(seconds=60)


class DeliveryLease(NamedTuple):
    """One delivery, taken until its lease runs out. attempts counts this one."""

    number: int
    batch: int
    chunk: int
    url: str
    secret: str
    attempts: int
    lease: str


class DeliveryResult(NamedTuple):
    """What an attempt came to: a status, a problem or none, and when to try again if ever."""

    status: int | None
    problem: str | None
    retry_at: datetime | None


class Outbox:
    """The deliveries; each method is one transaction."""

    def __init__(self, engine: Engine, new_lease: Callable[[], str]) -> None:
        self._engine = engine
        self._new_lease = new_lease

    def take(self, now: datetime) -> DeliveryLease | None:
        """Take the delivery that has been due longest, or nothing where none is due."""
        due = (
            select(Delivery.number)
            .where(Delivery.state == "pending", Delivery.next_attempt_at <= now)
            .order_by(Delivery.next_attempt_at)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        lease = self._new_lease()
        taken = (
            update(Delivery)
            .where(Delivery.number == due)
            .values(lease=lease, next_attempt_at=now + LEASE_TIME, attempts=Delivery.attempts + 1)
            .returning(Delivery)
        )
        with write_transaction(self._engine) as connection:
            row = connection.execute(taken).one_or_none()
            if row is None:
                return None
            endpoint = connection.execute(
                select(Endpoint.url, Endpoint.secret).where(
                    Endpoint.tenant == row.tenant, Endpoint.name == row.endpoint
                )
            ).one_or_none()
        url, secret = endpoint or ("", "")
        return DeliveryLease(row.number, row.batch, row.chunk, url, secret, row.attempts, lease)

    def settle(self, parcel: DeliveryLease, report: DeliveryResult, now: datetime) -> bool:
        """Write what an attempt came to; False where the lease had run out and passed on."""
        if report.problem is None:
            state = {"state": "delivered", "finished_at": now}
        elif report.retry_at is None:
            state = {"state": "failed", "finished_at": now}
        else:
            state = {"next_attempt_at": report.retry_at}
        done = (
            update(Delivery)
            .where(Delivery.number == parcel.number, Delivery.lease == parcel.lease)
            .values(status=report.status, problem=report.problem, lease=None, **state)
        )
        with write_transaction(self._engine) as connection:
            return connection.execute(done).rowcount == 1
