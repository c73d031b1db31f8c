"""The outbox: deliveries and manifests that are due. Only the holder of a lease may settle them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased

from models import Batch, Delivery, DeliveryAttempt, Manifest
from models.base import Instant
from valetkey.wire.events import EventType
from valetkey.wire.replies import ManifestState
from valetkey.wire.terms import ReplyModel
from worker.base.database_engine import DriverStatement
from worker.base.inserts import insert_statement
from worker.rules.tenant_config import Tenant
from worker.webhooks.batch_completion import (
    EVENT_LIFETIME,
    PENDING,
    is_open,
    release_completions,
)
from worker.webhooks.turns import TurnKey

# Longer than an attempt may take: a lease expires only if its process died or was suspended.
DELIVERY_LEASE_TIME = timedelta(seconds=60)

_EVENT_EXPIRED = f"the endpoint did not take it within {EVENT_LIFETIME.days} days"

_INSERT = insert(Delivery)
_INSERT_ATTEMPT = insert(DeliveryAttempt)


class Claim(NamedTuple):
    """A claim of up to max_rows deliveries of an endpoint. is_probe is that of DeliveryLease."""

    endpoint: TurnKey
    max_rows: int
    is_probe: bool = False


class DeliveryLease(NamedTuple):
    """A delivery, leased for DELIVERY_LEASE_TIME. attempts includes the current one.

    is_probe says that it is the only attempt while the endpoint's circuit is open. The fields up
    to created_at are those of Delivery.
    """

    delivery_number: int
    batch_number: int | None
    chunk_number: int | None
    event: str
    page: int
    pages: int
    group_id: str | None
    content: Any
    created_at: datetime
    endpoint: TurnKey
    attempts: int
    lease: str
    is_probe: bool


DELIVERY_COLUMNS = [
    getattr(Delivery, name)
    for name in DeliveryLease._fields[: DeliveryLease._fields.index("endpoint")]
]
"""The fields of DeliveryLease that a delivery has from the beginning."""


class DeliveryResult(NamedTuple):
    """The result of an attempt: an HTTP status, a problem or None, and the time of the next one.

    is_endpoint_up is None if the endpoint was not called. The next attempt must not be made before
    not_before. attempted_at and duration_ms are None if the delivery is not to be attempted.
    """

    status: int | None
    problem: str | None
    retry_at: datetime | None
    is_endpoint_up: bool | None = None
    not_before: datetime | None = None
    attempted_at: datetime | None = None
    duration_ms: int | None = None


def insert_deliveries(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert one or more deliveries in the transaction that inserts what they report."""
    connection.execute(_INSERT, rows)


class TenantEvent(NamedTuple):
    """An event without a batch. A tenant receives a type once for each group_id."""

    type: EventType
    group_id: str
    content: ReplyModel


def insert_event(
    connection: Connection, tenant: Tenant, event: TenantEvent, now: datetime, *, excluded: str = ""
) -> None:
    """Insert an event for each endpoint of a tenant that receives its type, except the excluded."""
    row = {"group_id": event.group_id, "content": event.content.model_dump(mode="json")}
    rows = [
        delivery_values(tenant.id, endpoint.name, event.type, now) | row
        for endpoint in tenant.endpoints.values()
        if endpoint.name != excluded and endpoint.wants(event.type)
    ]
    if rows:  # of a tenant that may have a thousand endpoints
        statement = insert_statement(Delivery, connection.dialect.name)
        connection.execute(statement.on_conflict_do_nothing(), rows)


def delivery_values(tenant_id: str, endpoint: str, event: str, now: datetime) -> dict[str, Any]:
    """Return a new row: a single page, without a batch. It expires EVENT_LIFETIME after now."""
    return pending_values(now) | {
        "batch_number": None,
        "chunk_number": None,
        "tenant": tenant_id,
        "endpoint": endpoint,
        "event": event,
        "group_id": None,
        "page": 1,
        "pages": 1,
        "expires_at": now + EVENT_LIFETIME,
    }


def pending_values(now: datetime) -> dict[str, Any]:
    """Return the values that every delivery and manifest created at `now` has: it is due now."""
    return {"state": "pending", "attempts": 0, "next_attempt_at": now, "created_at": now}


def _select_due(table: Any, *key: str) -> Select[*tuple[Any, ...]]:
    """Select the keys of rows that are due, with a few index searches a key, however many rows.

    The first pending row of a key leads to that of the next key. SQLite would not use the second
    column of an index for a comparison of pairs.
    """
    row, later = aliased(table), aliased(table)
    names = (*key, "next_attempt_at")
    columns = [getattr(row, name) for name in names]
    (number,) = table.__table__.primary_key.columns.keys()

    def first_number(*conditions: Any) -> ColumnElement[Any]:
        query = select(getattr(later, number)).where(later.state == PENDING, *conditions)
        query = query.order_by(*(getattr(later, name) for name in names)).limit(1)
        return query.scalar_subquery()

    first = select(*columns).where(getattr(row, number) == first_number())
    heads = first.cte("heads", recursive=True)
    following = [
        first_number(
            *(getattr(later, name) == heads.c[name] for name in key[:position]),
            getattr(later, key[position]) > heads.c[key[position]],
        )
        for position in reversed(range(len(key)))
    ]
    is_next = getattr(row, number) == func.coalesce(*following, None)
    heads = heads.union_all(select(*columns).join_from(heads, row, is_next))
    is_due = heads.c.next_attempt_at <= bindparam("now", type_=Instant())
    return select(*(heads.c[name] for name in key)).where(is_due)


_DUE_ENDPOINTS = _select_due(Delivery, "tenant", "endpoint")
_TENANTS_WITH_MANIFESTS = _select_due(Manifest, "tenant")


def due_endpoints(connection: Connection, now: datetime) -> list[TurnKey]:
    """Return the endpoints that have deliveries that are due, by tenant."""
    return [TurnKey(*row) for row in connection.execute(_DUE_ENDPOINTS, {"now": now})]


_DUE = (
    select(Delivery.delivery_number)
    .where(Delivery.state == PENDING)
    .where(Delivery.tenant == bindparam("of_tenant"))
    .where(Delivery.endpoint == bindparam("of_endpoint"))
    .where(Delivery.next_attempt_at <= bindparam("now"))
    .order_by(Delivery.next_attempt_at)
    .limit(bindparam("max_rows"))
    .with_for_update(skip_locked=True)
    .cte("due")
)
_LEASE = DriverStatement(
    update(Delivery)
    .where(Delivery.delivery_number.in_(select(_DUE.c.delivery_number)))
    .values(
        lease=bindparam("new_lease"),
        next_attempt_at=bindparam("until"),
        attempts=Delivery.attempts + 1,
    )
    .returning(*DELIVERY_COLUMNS, Delivery.attempts)
)


def lease_deliveries(
    connection: Connection, claim: Claim, lease: str, now: datetime
) -> list[DeliveryLease]:
    """Lease the deliveries to an endpoint that have been due for the longest time."""
    endpoint, max_rows, is_probe = claim
    params = {"of_tenant": endpoint.owner, "of_endpoint": endpoint.name, "max_rows": max_rows}
    times = {"now": now, "until": now + DELIVERY_LEASE_TIME}
    rows = _LEASE.run(connection, params | times | {"new_lease": lease})
    return [
        DeliveryLease._make((*row[:-1], endpoint, row.attempts, lease, is_probe)) for row in rows
    ]


_SETTLE = DriverStatement(
    update(Delivery)
    .where(Delivery.delivery_number == bindparam("number"))
    .where(Delivery.lease == bindparam("leased"))
    .values(
        state=bindparam("new_state"),
        finished_at=bindparam("finished"),
        next_attempt_at=func.coalesce(
            bindparam("retry_at", type_=Instant()), Delivery.next_attempt_at
        ),
        status=bindparam("new_status"),
        problem=bindparam("new_problem"),
        duration_ms=bindparam("duration"),
        not_before=bindparam("earliest"),
        lease=None,
    )
    .returning(Delivery.delivery_number)
)


def settle_delivery(
    connection: Connection, delivery: DeliveryLease, result: DeliveryResult, now: datetime
) -> bool:
    """Write the result of an attempt; return false if the lease was lost to another process.

    Only failed attempts have rows of their own.
    """
    final_state = "delivered" if result.problem is None else "failed"
    values = {
        "number": delivery.delivery_number,
        "leased": delivery.lease,
        "new_state": final_state if result.retry_at is None else "pending",
        "finished": now if result.retry_at is None else None,
        "retry_at": result.retry_at,
        "new_status": result.status,
        "new_problem": result.problem,
        "duration": result.duration_ms,
        "earliest": result.not_before,
    }
    is_settled = bool(_SETTLE.run(connection, values))
    if is_settled and result.problem is not None and result.attempted_at is not None:
        attempt = {
            "delivery_number": delivery.delivery_number,
            "attempted_at": result.attempted_at,
            "duration_ms": result.duration_ms,
            "status": result.status,
            "problem": result.problem,
        }
        connection.execute(_INSERT_ATTEMPT, attempt)
    return is_settled


_MAX_EARLIER_FAILURES = 2
MAX_CHANGED = 1_000
"""The most deliveries to bring forward, or to send again, in one transaction."""


def _waiting_deliveries(endpoint: TurnKey, since: datetime | None, now: datetime) -> Any:
    """Select what waits for its next attempt at an endpoint, and for no other reason.

    A delivery that failed before the outage too, at an endpoint that took others, fails by itself:
    it has to keep to the schedule, or other deliveries would use up its attempts.
    """
    query = select(Delivery.delivery_number, Delivery.not_before).where(
        Delivery.state == PENDING,
        Delivery.tenant == endpoint.owner,
        Delivery.endpoint == endpoint.name,
        Delivery.next_attempt_at > now,
        Delivery.lease.is_(None),
        or_(Delivery.not_before.is_(None), Delivery.not_before < Delivery.next_attempt_at),
    )
    if since is not None:
        earlier = select(func.count()).where(
            DeliveryAttempt.delivery_number == Delivery.delivery_number,
            DeliveryAttempt.attempted_at < since,
        )
        query = query.where(earlier.scalar_subquery() <= _MAX_EARLIER_FAILURES)
    query = query.order_by(Delivery.expires_at.nulls_last(), Delivery.delivery_number)
    return query.with_for_update(skip_locked=True)


_BRING_FORWARD = (
    update(Delivery)
    .where(Delivery.delivery_number == bindparam("number"))
    .values(next_attempt_at=bindparam("due"))
)


def bring_forward(
    connection: Connection, recovered: Mapping[TurnKey, datetime | None], now: datetime
) -> dict[TurnKey, datetime | None]:
    """Make deliveries that wait for their next attempt due, those that expire soonest first.

    recovered maps endpoints to the beginning of their outage, or None to bring forward what failed
    before as well. Waits for no other transaction. Returns the endpoints with which to call it
    again, in a transaction of its own.
    """
    changes: list[dict[str, Any]] = []
    rest = {}
    for endpoint, since in sorted(recovered.items()):
        room = MAX_CHANGED - len(changes)
        query = _waiting_deliveries(endpoint, since, now).limit(room)
        rows = connection.execute(query).all() if room else []
        # They are sent in the order of these times.
        due = now - timedelta(microseconds=len(rows))
        for place, (number, not_before) in enumerate(rows):
            time = due + timedelta(microseconds=place)
            changes.append({"number": number, "due": max(time, not_before or time)})
        if len(rows) == room:
            rest[endpoint] = since
    if changes:
        connection.execute(_BRING_FORWARD, changes)
    return rest


_EXPIRED = (
    select(Delivery.delivery_number)
    .where(Delivery.state == PENDING, Delivery.expires_at <= bindparam("now"))
    # An attempt that is running finishes by itself.
    .where(or_(Delivery.lease.is_(None), Delivery.next_attempt_at <= bindparam("now")))
    .limit(bindparam("max_rows"))
    .with_for_update(skip_locked=True)
    .cte("expired")
)
_FAIL_EXPIRED = (
    update(Delivery)
    .where(Delivery.delivery_number.in_(select(_EXPIRED.c.delivery_number)))
    .values(
        state="failed",
        problem=case((Delivery.event == "grants.decided", bindparam("why")), else_=_EVENT_EXPIRED),
        lease=None,
        finished_at=bindparam("now"),
    )
    .returning(Delivery.batch_number)
)


def fail_expired_deliveries(
    connection: Connection, problem: str, now: datetime, max_rows: int
) -> int:
    """Fail at most max_rows deliveries that expired before they were sent; return how many.

    problem is that of an outcome: the other webhooks do not expire with grants.
    An endpoint whose circuit is open therefore does not keep them pending.
    """
    params = {"why": problem, "now": now, "max_rows": max_rows}
    batches = connection.scalars(_FAIL_EXPIRED, params).all()
    release_completions(connection, filter(None, batches), now)
    return len(batches)


# A lease is renewed while its file is written: it expires only if its process died.
MANIFEST_LEASE_TIME = timedelta(seconds=60)


class ManifestLease(NamedTuple):
    """A manifest to write, leased for MANIFEST_LEASE_TIME. attempts includes the current one."""

    batch_number: int
    tenant_id: str
    bucket: str
    batch_id: str
    object_key: str
    attempts: int
    lease: str


class ManifestWritten(NamedTuple):
    """A stored manifest: its lines by result, its size in bytes and its SHA-256 in hexadecimal."""

    issued: int
    refused: int
    bytes: int
    sha256: str


class ManifestProblem(NamedTuple):
    """The reason why a manifest is not stored, and the time of the next attempt, if any."""

    problem: str
    retry_at: datetime | None


def read_manifest_state(connection: Connection, batch_number: int) -> ManifestState | None:
    """Return the state of a batch's manifest, or None if it has no manifest."""
    query = select(
        *(Manifest.object_key.label("key"), Manifest.state, Manifest.issued, Manifest.refused),
        *(Manifest.bytes, Manifest.sha256, Manifest.problem),
    ).where(Manifest.batch_number == batch_number)
    row = connection.execute(query).mappings().one_or_none()
    return None if row is None else ManifestState(**row)


def tenants_with_due_manifests(connection: Connection, now: datetime) -> list[str]:
    """Return the tenants whose manifests may be due; their batches may still be open."""
    return list(connection.scalars(_TENANTS_WITH_MANIFESTS, {"now": now}))


def lease_manifest(
    connection: Connection, tenant: str, lease: str, now: datetime
) -> ManifestLease | None:
    """Lease the longest-due manifest of a tenant's complete batches; return None if none is due."""
    due = (
        select(Manifest.batch_number)
        .where(Manifest.state == PENDING, Manifest.tenant == tenant)
        .where(Manifest.next_attempt_at <= now, ~is_open(Manifest.batch_number))
        .order_by(Manifest.next_attempt_at)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    statement = (
        update(Manifest)
        .where(Manifest.batch_number == due)
        .values(
            lease=lease, next_attempt_at=now + MANIFEST_LEASE_TIME, attempts=Manifest.attempts + 1
        )
        .returning(Manifest.batch_number, Manifest.object_key, Manifest.attempts)
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    query = select(Batch.tenant, Batch.bucket, Batch.batch_id)
    batch = connection.execute(query.where(Batch.batch_number == row.batch_number)).one()
    return ManifestLease(row.batch_number, *batch, row.object_key, row.attempts, lease)


def renew_manifest_lease(connection: Connection, manifest: ManifestLease, now: datetime) -> bool:
    """Extend a lease; return false if it expired and another process took it."""
    statement = update(Manifest).where(_is_manifest_leased(manifest))
    renewed = connection.execute(statement.values(next_attempt_at=now + MANIFEST_LEASE_TIME))
    return renewed.rowcount == 1


def settle_manifest(
    connection: Connection,
    manifest: ManifestLease,
    result: ManifestWritten | ManifestProblem,
    now: datetime,
) -> bool:
    """Write the result of an attempt; return false if the lease was lost to another process."""
    values: dict[str, Any]
    if isinstance(result, ManifestWritten):
        values = {"state": "written", "problem": None, "finished_at": now, **result._asdict()}
    elif result.retry_at is None:
        values = {"state": "failed", "problem": result.problem, "finished_at": now}
    else:
        values = {"problem": result.problem, "next_attempt_at": result.retry_at}
    statement = update(Manifest).where(_is_manifest_leased(manifest)).values(lease=None, **values)
    is_settled = connection.execute(statement).rowcount == 1
    release_completions(connection, [manifest.batch_number], now)
    return is_settled


def _is_manifest_leased(manifest: ManifestLease) -> ColumnElement[bool]:
    return and_(Manifest.batch_number == manifest.batch_number, Manifest.lease == manifest.lease)


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
