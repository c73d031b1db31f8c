"""The outbox: deliveries and manifests that are due. Only the holder of a lease may settle them."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Select,
    and_,
    bindparam,
    case,
    exists,
    func,
    insert,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.orm import aliased

from models import Batch, Delivery, Manifest, Reservation
from models.base import Instant
from valetkey.wire.replies import ManifestState
from worker.base.jobs import TurnKey
from worker.core.decisions import ChunkDecision, ChunkRequest
from worker.ledger.reservations import REMAINING

# Longer than an attempt may take: a lease expires only if its process died or was suspended.
DELIVERY_LEASE_TIME = timedelta(seconds=60)

# A refusal has no grants that expire. It is sent for as long as the longest-lived grant would be.
REFUSAL_LIFETIME = timedelta(days=7)

# All attempts of a delivery about uploads take less time, unless the endpoint is paused meanwhile.
EVENT_LIFETIME = timedelta(days=7)
_EVENT_EXPIRED = f"the endpoint did not take it within {EVENT_LIFETIME.days} days"

_INSERT, _INSERT_MANIFEST = insert(Delivery), insert(Manifest)
# Not a parameter: the partial indexes are used only if the statement itself contains this text.
_PENDING: ColumnElement[str] = literal_column("'pending'")


class Claim(NamedTuple):
    """The most deliveries to lease of an endpoint. is_probe is that of DeliveryLease."""

    endpoint: TurnKey
    max_rows: int
    is_probe: bool = False


class DeliveryLease(NamedTuple):
    """A delivery, leased for LEASE_TIME. attempts includes the current one.

    is_probe says that it is the only attempt while the endpoint's circuit is open. event and
    group_id are those of Delivery.
    """

    delivery_number: int
    batch_number: int
    chunk_number: int
    event: str | None
    group_id: str | None
    endpoint: TurnKey
    attempts: int
    lease: str
    is_probe: bool


class DeliveryResult(NamedTuple):
    """The result of an attempt: an HTTP status, a problem or None, and the time of the next one.

    is_endpoint_up is None if the endpoint was not called.
    """

    status: int | None
    problem: str | None
    retry_at: datetime | None
    is_endpoint_up: bool | None = None


def insert_deliveries(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert one or more deliveries in the transaction that inserts what they tell of."""
    connection.execute(_INSERT, rows)


def delivery_values(
    batch_number: int, request: ChunkRequest, decision: ChunkDecision, now: datetime
) -> dict[str, Any]:
    """Return the row of the delivery of a chunk's outcome."""
    is_refused = decision.refusal is not None
    return pending_values(now) | {
        "batch_number": batch_number,
        "chunk_number": request.message.chunk,
        "tenant": request.tenant.id,
        "endpoint": request.message.callback,
        "expires_at": now + REFUSAL_LIFETIME if is_refused else decision.validity.expires_at,
    }


def pending_values(now: datetime) -> dict[str, Any]:
    """Return the values that every new delivery and manifest has."""
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
        query = select(getattr(later, number)).where(later.state == _PENDING, *conditions)
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
    .where(Delivery.state == _PENDING)
    .where(Delivery.tenant == bindparam("of_tenant"))
    .where(Delivery.endpoint == bindparam("of_endpoint"))
    .where(Delivery.next_attempt_at <= bindparam("now"))
    .order_by(Delivery.next_attempt_at)
    .limit(bindparam("max_rows"))
    .with_for_update(skip_locked=True)
    .cte("due")
)
_LEASE = (
    update(Delivery)
    .where(Delivery.delivery_number.in_(select(_DUE.c.delivery_number)))
    .values(
        lease=bindparam("new_lease"),
        next_attempt_at=bindparam("until"),
        attempts=Delivery.attempts + 1,
    )
    .returning(
        *(Delivery.delivery_number, Delivery.batch_number, Delivery.chunk_number),
        *(Delivery.event, Delivery.group_id, Delivery.attempts),
    )
)


def lease_deliveries(
    connection: Connection, claim: Claim, lease: str, now: datetime
) -> list[DeliveryLease]:
    """Lease the deliveries to an endpoint that have been due for the longest time."""
    endpoint, max_rows, is_probe = claim
    params = {"of_tenant": endpoint.owner, "of_endpoint": endpoint.name, "max_rows": max_rows}
    times = {"now": now, "until": now + DELIVERY_LEASE_TIME}
    rows = connection.execute(_LEASE, params | times | {"new_lease": lease})
    return [DeliveryLease(*row[:5], endpoint, row.attempts, lease, is_probe) for row in rows]


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


_EXPIRED = (
    select(Delivery.delivery_number)
    .where(Delivery.state == _PENDING, Delivery.expires_at <= bindparam("now"))
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
        problem=case((Delivery.event.is_(None), bindparam("why")), else_=_EVENT_EXPIRED),
        lease=None,
        finished_at=bindparam("now"),
    )
    .returning(Delivery.delivery_number)
)


def fail_expired_deliveries(
    connection: Connection, problem: str, now: datetime, max_rows: int
) -> int:
    """Fail at most max_rows deliveries that expired before they were sent; return how many.

    problem is that of an outcome: webhooks about uploads do not expire with the grants.
    An endpoint whose circuit is open therefore does not keep them pending.
    """
    params = {"why": problem, "now": now, "max_rows": max_rows}
    return len(connection.execute(_FAIL_EXPIRED, params).all())


# A lease is renewed while its file is written: it expires only if its process died.
MANIFEST_LEASE_TIME = timedelta(seconds=60)

# An open batch has a reservation for the items that have not arrived yet.
_BATCH_IS_OPEN = exists().where(
    Reservation.batch_number == Manifest.batch_number, Reservation.chunk_number == REMAINING
)


class ManifestLease(NamedTuple):
    """A manifest to write, leased for LEASE_TIME. attempts includes the current one."""

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


def insert_manifest(
    connection: Connection, batch_number: int, request: ChunkRequest, now: datetime
) -> None:
    """Insert the manifest of a batch in the transaction that opens the batch."""
    values = pending_values(now) | {
        "batch_number": batch_number,
        "tenant": request.tenant.id,
        "object_key": request.message.manifest,
        "issued": 0,
        "refused": 0,
    }
    connection.execute(_INSERT_MANIFEST, values)


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
        .where(Manifest.state == _PENDING, Manifest.tenant == tenant)
        .where(Manifest.next_attempt_at <= now, ~_BATCH_IS_OPEN)
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
    return connection.execute(statement).rowcount == 1


def _is_manifest_leased(manifest: ManifestLease) -> ColumnElement[bool]:
    return and_(Manifest.batch_number == manifest.batch_number, Manifest.lease == manifest.lease)
