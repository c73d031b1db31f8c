"""The producers that listen to their tenants' webhooks, and what was relayed to each of them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, delete, func, select, update

from models import Batch, Delivery, WebhookListener
from valetkey.wire.messages import MAX_LISTENERS, MAX_MISSED_EVENTS, ListenMessage
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Listening, MissedEvent
from worker.base.database_engine import acquire_advisory_lock, write_transaction
from worker.base.inserts import insert_once
from worker.context import Context
from worker.rules.authentication import AuthenticatedMessage
from worker.rules.decisions import Reply, refused_outcome
from worker.rules.policy_rules import refuse
from worker.rules.tenant_config import TenantConfig
from worker.webhooks.outbox import DELIVERY_COLUMNS, DeliveryLease
from worker.webhooks.turns import TurnKey

LISTENING_TIME = timedelta(seconds=60)
"""The time for which a producer listens, unless it asks again."""

OVERLAP = 300
"""A delivery is relayed if up to so many higher numbers were committed before it."""

_PAGE = 20  # webhooks in one step, each at most MAX_WEBHOOK_BYTES
_SPAN = 10_000  # numbers, of all tenants, that one statement reads


class Listener(NamedTuple):
    """A producer that listens now, the id of its tenant, and the name of the tenant's key."""

    listener_id: str
    tenant_id: str
    key: str


def listen(
    message: ListenMessage, sender: AuthenticatedMessage, _config: TenantConfig, context: Context
) -> Reply:
    """Let a producer listen. Charges and audits nothing: what it hears was, when it was granted."""
    if sender.key is None:
        text = "listening needs the tenant's key: events are sealed to it"
        return refused_outcome("", 0, refuse(Code.SIGNATURE_REQUIRED, "", text))
    owner = sender.tenant.id, sender.key.name
    with write_transaction(context.engine) as connection:
        reply = register_listener(connection, message, *owner, context.now())
    return refused_outcome("", 0, reply) if isinstance(reply, Refusal) else Reply.of(reply)


def register_listener(
    connection: Connection, message: ListenMessage, tenant_id: str, key: str, now: datetime
) -> Listening | Refusal:
    """Let a producer listen for LISTENING_TIME from now on, or refuse one too many."""
    acquire_advisory_lock(connection, f"listeners {tenant_id}")
    values = {"key": key, "expires_at": now + LISTENING_TIME}
    renew = update(WebhookListener).where(
        WebhookListener.listener_id == message.listener,
        WebhookListener.tenant == tenant_id,
        WebhookListener.expires_at > now,
    )
    cursor = connection.scalar(renew.values(values).returning(WebhookListener.cursor))
    if cursor is None:
        delete_expired_listeners(connection, now)
        is_of_tenant = WebhookListener.tenant == tenant_id
        count = connection.scalar(select(func.count()).where(is_of_tenant))
        cursor = _last_number(connection)
        ids = {"listener_id": message.listener, "tenant": tenant_id}
        recent = _numbers(connection, tenant_id, cursor - OVERLAP, cursor)
        values |= ids | {"cursor": cursor, "recent": recent}
        if count == MAX_LISTENERS or not insert_once(connection, WebhookListener, values):
            text = f"there are {MAX_LISTENERS} listeners, or another has this id: end one of them"
            return refuse(Code.TOO_MANY_LISTENERS, "listener", text, MAX_LISTENERS)
    seconds = int(LISTENING_TIME.total_seconds())
    reply = Listening(listener=message.listener, expires_in=seconds, cursor=cursor)
    return reply.model_copy(update=_missed(connection, tenant_id, message.after, cursor))


def _missed(
    connection: Connection, tenant_id: str, after: int | None, cursor: int
) -> dict[str, Any]:
    if after is None or after >= cursor:
        return {}
    are_since = _between(tenant_id, max(after, cursor - _SPAN), cursor)
    query = (
        select(Delivery.delivery_number, Delivery.event, Batch.batch_id)
        .outerjoin(Batch, Batch.batch_number == Delivery.batch_number)
        .where(*are_since)
        .order_by(Delivery.delivery_number)
        .limit(MAX_MISSED_EVENTS)
    )
    missed = [
        MissedEvent(number=row.delivery_number, type=row.event, batch=row.batch_id)
        for row in connection.execute(query)
    ]
    # Not read: a producer may ask as often as it likes.
    count = connection.scalar(select(func.count()).select_from(Delivery).where(*are_since))
    return {"missed": missed, "missed_count": count}


def read_listeners(connection: Connection, now: datetime) -> list[Listener]:
    """Return the producers that listen."""
    query = select(WebhookListener.listener_id, WebhookListener.tenant, WebhookListener.key)
    rows = connection.execute(query.where(WebhookListener.expires_at > now))
    return [Listener._make(row) for row in rows]


def delete_expired_listeners(connection: Connection, now: datetime) -> None:
    """Delete the listeners that did not ask again in time."""
    connection.execute(delete(WebhookListener).where(WebhookListener.expires_at <= now))


def delete_listener(connection: Connection, listener: Listener) -> None:
    """Stop to relay to a listener."""
    is_listener = WebhookListener.listener_id == listener.listener_id
    connection.execute(delete(WebhookListener).where(is_listener))


class _Step(NamedTuple):
    """The numbers of deliveries to relay, and the listener's next cursor and recent numbers."""

    numbers: list[int]
    cursor: int
    recent: list[int]


def has_new_events(connection: Connection, listener: Listener) -> bool:
    """Return true if claim_events has something to do."""
    return _next_step(connection, listener) is not None


def claim_events(connection: Connection, listener: Listener) -> list[DeliveryLease]:
    """Return the next webhooks to relay to a listener, each once in all processes.

    Those that wait for their batch are skipped until they are released, under a higher number.
    """
    step = _next_step(connection, listener, is_locked=True)
    if step is None:
        return []
    is_listener = WebhookListener.listener_id == listener.listener_id
    values = {"cursor": step.cursor, "recent": step.recent}
    connection.execute(update(WebhookListener).where(is_listener).values(values))
    is_new = Delivery.delivery_number.in_(step.numbers)
    query = (
        select(*DELIVERY_COLUMNS, Delivery.endpoint)
        .where(is_new)
        .order_by(Delivery.delivery_number)
    )
    return [
        DeliveryLease._make((*row[:-1], TurnKey(listener.tenant_id, row.endpoint), 0, "", False))
        for row in connection.execute(query)
    ]


def _next_step(
    connection: Connection, listener: Listener, *, is_locked: bool = False
) -> _Step | None:
    is_listener = WebhookListener.listener_id == listener.listener_id
    query = select(WebhookListener.cursor, WebhookListener.recent).where(is_listener)
    row = connection.execute(query.with_for_update() if is_locked else query).one_or_none()
    if row is None:
        return None
    first, last = row.cursor - OVERLAP, min(_last_number(connection), row.cursor + _SPAN)
    found, known = _numbers(connection, listener.tenant_id, first, last), set(row.recent)
    new = [number for number in found if number not in known][:_PAGE]
    if not new and last < row.cursor + _SPAN // 10:
        return None
    cursor = max(row.cursor, new[-1] if len(new) == _PAGE else last)
    known |= set(new)
    return _Step(new, cursor, [n for n in found if n in known and n > cursor - OVERLAP])


def _last_number(connection: Connection) -> int:
    return connection.scalar(select(func.max(Delivery.delivery_number))) or 0


def _numbers(connection: Connection, tenant_id: str, first: int, last: int) -> list[int]:
    """Return the numbers of a tenant's deliveries after first, up to last, that do not wait."""
    query = select(Delivery.delivery_number).where(*_between(tenant_id, first, last))
    return list(connection.scalars(query.order_by(Delivery.delivery_number)))


def _between(tenant_id: str, first: int, last: int) -> Sequence[ColumnElement[bool]]:
    number = Delivery.delivery_number
    return number > first, number <= last, Delivery.tenant == tenant_id, Delivery.state != "waiting"
