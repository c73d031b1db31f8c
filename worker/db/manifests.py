"""Manifests that are due. Only the holder of a manifest's lease may settle it."""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    bindparam,
    exists,
    insert,
    literal_column,
    select,
    update,
)
from sqlalchemy.orm import aliased

from models import Batch, Manifest, Reservation
from models.base import Instant
from valetkey.wire.replies import ManifestState
from worker.core.policy.decisions import ChunkRequest
from worker.db.reservations import REMAINING

# A lease is renewed while its file is written: it expires only if its process died.
LEASE_TIME = timedelta(seconds=60)

_INSERT = insert(Manifest)
# Not a parameter: the partial index is used only if the statement itself contains this text.
_PENDING: ColumnElement[str] = literal_column("'pending'")
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
    values: dict[str, Any] = {
        "batch_number": batch_number,
        "tenant": request.tenant.id,
        "object_key": request.message.manifest,
        "state": "pending",
        "attempts": 0,
        "issued": 0,
        "refused": 0,
        "next_attempt_at": now,
        "created_at": now,
    }
    connection.execute(_INSERT, values)


def read_manifest_state(connection: Connection, batch_number: int) -> ManifestState | None:
    """Return the state of a batch's manifest, or None if it has no manifest."""
    query = select(Manifest).where(Manifest.batch_number == batch_number)
    row = connection.execute(query).one_or_none()
    if row is None:
        return None
    return ManifestState(
        key=row.object_key,
        state=row.state,
        issued=row.issued,
        refused=row.refused,
        bytes=row.bytes,
        sha256=row.sha256,
        problem=row.problem,
    )


_row, _next = aliased(Manifest), aliased(Manifest)
_first = (
    select(Manifest.tenant, Manifest.next_attempt_at)
    .where(Manifest.state == _PENDING)
    .order_by(Manifest.tenant, Manifest.next_attempt_at)
    .limit(1)
    .subquery()
)
_HEADS = select(_first).cte("heads", recursive=True)
# One index search per tenant, however many manifests each has.
_HEADS = _HEADS.union_all(
    select(_row.tenant, _row.next_attempt_at)
    .select_from(_HEADS)
    .join(
        _row,
        _row.batch_number
        == select(_next.batch_number)
        .where(_next.state == _PENDING, _next.tenant > _HEADS.c.tenant)
        .order_by(_next.tenant, _next.next_attempt_at)
        .limit(1)
        .scalar_subquery(),
    )
)
_DUE_TENANTS = select(_HEADS.c.tenant).where(
    _HEADS.c.next_attempt_at <= bindparam("now", type_=Instant())
)


def tenants_with_due_manifests(connection: Connection, now: datetime) -> list[str]:
    """Return the tenants whose manifests may be due; their batches may still be open."""
    return list(connection.scalars(_DUE_TENANTS, {"now": now}))


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
        .values(lease=lease, next_attempt_at=now + LEASE_TIME, attempts=Manifest.attempts + 1)
        .returning(Manifest.batch_number, Manifest.object_key, Manifest.attempts)
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        return None
    query = select(Batch.tenant, Batch.bucket, Batch.batch_id)
    batch = connection.execute(query.where(Batch.batch_number == row.batch_number)).one()
    return ManifestLease(row.batch_number, *batch, row.object_key, row.attempts, lease)


def renew_lease(connection: Connection, manifest: ManifestLease, now: datetime) -> bool:
    """Extend a lease; return false if it expired and another process took it."""
    statement = update(Manifest).where(_is_leased(manifest))
    return connection.execute(statement.values(next_attempt_at=now + LEASE_TIME)).rowcount == 1


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
    statement = update(Manifest).where(_is_leased(manifest)).values(lease=None, **values)
    return connection.execute(statement).rowcount == 1


def _is_leased(manifest: ManifestLease) -> ColumnElement[bool]:
    return and_(Manifest.batch_number == manifest.batch_number, Manifest.lease == manifest.lease)
