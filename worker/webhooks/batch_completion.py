"""Releases the webhook `batch.completed` of batches that receive no further results.

Each transaction that may complete a batch calls `release_completions`: the one that decides its
last chunk or closes it, that settles its manifest, or the last webhook with its results.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, and_, delete, exists, insert, literal, literal_column, select
from sqlalchemy.orm import aliased

from models import Delivery, Manifest, Reservation
from models.base import Instant
from worker.ledger.reservations import REMAINING
from worker.shared.pages import in_parts

EVENT_LIFETIME = timedelta(days=7)
"""All attempts of a webhook without links take less time, unless its endpoint is paused."""

# Not a parameter: the partial indexes are used only if the statement itself contains this text.
PENDING: Any = literal_column("'pending'")


def is_open(batch_number: Any) -> Any:
    """Return the condition that chunks of a batch may still arrive."""
    return exists().where(
        Reservation.batch_number == batch_number, Reservation.chunk_number == REMAINING
    )


_COPIED = [c.name for c in Delivery.__table__.columns if c.name != "delivery_number"]
_OTHER = aliased(Delivery)
_IS_WAITING = Delivery.state == "waiting"
_IS_COMPLETE = and_(
    ~is_open(Delivery.batch_number),
    ~exists().where(Manifest.batch_number == Delivery.batch_number, Manifest.state == PENDING),
    ~exists().where(
        _OTHER.batch_number == Delivery.batch_number,
        _OTHER.event == "grants.decided",
        _OTHER.state == PENDING,
    ),
)


def release_completions(
    connection: Connection, batch_numbers: Iterable[int], now: datetime
) -> None:
    """Let the last webhooks of these batches be sent, if they are complete.

    Each is a new row: what reads the deliveries by number finds it after those before.
    """
    for numbers in in_parts(sorted(set(batch_numbers))):
        is_named = Delivery.batch_number.in_(numbers)
        waiting = select(Delivery.delivery_number).where(is_named, _IS_WAITING)
        # Locked by a statement of its own: the next one then sees what others committed meanwhile.
        locked = waiting.order_by(Delivery.delivery_number).with_for_update()
        if connection.scalars(locked).all():
            _release(connection, connection.scalars(waiting.where(_IS_COMPLETE)).all(), now)


def _release(connection: Connection, numbers: Sequence[int], now: datetime) -> None:
    if not numbers:
        return
    times = {"next_attempt_at": now, "created_at": now, "expires_at": now + EVENT_LIFETIME}
    changed = {name: literal(time, Instant()) for name, time in times.items()} | {"state": PENDING}
    columns = [changed.get(name, getattr(Delivery, name)) for name in _COPIED]
    is_released = Delivery.delivery_number.in_(numbers)
    copies = select(*columns).where(is_released)
    # First, or SQLite would use the number of the last row again.
    connection.execute(insert(Delivery).from_select(_COPIED, copies))
    connection.execute(delete(Delivery).where(is_released))
