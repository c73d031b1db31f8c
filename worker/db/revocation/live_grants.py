"""Reads the grants that have not expired. Their chunks still have a reservation."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from models import Batch, Chunk, Grant, Reservation
from valetkey.wire.grant_ids import split_grant_id
from worker.core.revocation.targets import LiveGrant, Target
from worker.core.tenants.config import TenantConfig
from worker.core.tenants.storage_names import storage_name
from worker.db.audit.selection.tenant_filter import is_of_tenant
from worker.db.reservations import REMAINING

_FIRST_ITEM = Chunk.chunk_number * Batch.chunk_size


def read_targeted(
    connection: Connection, target: Target, config: TenantConfig, now: datetime
) -> list[LiveGrant]:
    """Return the live grants that a target names."""
    return _read(connection, _is_targeted(connection, target, config), now)


def read_beside(
    connection: Connection, targeted: Sequence[LiveGrant], config: TenantConfig, now: datetime
) -> list[LiveGrant]:
    """Return the live grants in the same buckets, and those of the same roles and access keys."""
    buckets = {grant.bucket for grant in targeted}
    known = [config.buckets[name] for name in buckets if name in config.buckets]
    storages = {storage_name(profile) for profile in known}
    roles = {profile.role_arn for profile in known if profile.role_arn}
    same_role = {name for name, each in config.buckets.items() if each.role_arn in roles}
    profiles = buckets | same_role | set(_profiles_of(storages, config))
    keys = {grant.access_key for grant in targeted if grant.access_key}
    beside = or_(Batch.bucket.in_(profiles), Chunk.access_key.in_(keys))
    return _read(connection, beside, now)


def was_issued(connection: Connection, target: Target, config: TenantConfig) -> bool:
    """Return whether the log has any item of a target, live or not."""
    query = (
        select(Batch.batch_number)
        .outerjoin(Chunk, Chunk.batch_number == Batch.batch_number)
        .outerjoin(Grant, Grant.batch_number == Batch.batch_number)
        .where(_is_targeted(connection, target, config))
        .limit(1)
    )
    return connection.scalar(query) is not None


def _is_targeted(
    connection: Connection, target: Target, config: TenantConfig
) -> ColumnElement[bool]:
    match target.kind:
        case "grant":
            batch_id, item = split_grant_id(target.value)
            is_batch = _is_batch(connection, batch_id, target.tenant)
            return and_(is_batch, Grant.item_number == item)
        case "batch":
            return _is_batch(connection, target.value, target.tenant)
        case "key":
            return and_(_in_bucket(target, config), Grant.object_key == target.value)
        case "prefix":
            begins = Grant.object_key.startswith(target.value, autoescape=True)
            return and_(_in_bucket(target, config), begins)
        case "tenant":
            return is_of_tenant(connection, Batch.tenant, target.value)
        case "credentials":
            return Chunk.access_key == target.value


def _is_batch(connection: Connection, batch_id: str, tenant: str | None) -> ColumnElement[bool]:
    if tenant is None:
        return Batch.batch_id == batch_id
    return and_(Batch.batch_id == batch_id, is_of_tenant(connection, Batch.tenant, tenant))


def _in_bucket(target: Target, config: TenantConfig) -> ColumnElement[bool]:
    """Select the profiles that lead to the same real bucket as the target's."""
    storage = storage_name(config.buckets[target.bucket or ""])
    return Batch.bucket.in_(_profiles_of({storage}, config))


def _profiles_of(storages: Collection[str], config: TenantConfig) -> list[str]:
    return [name for name, each in config.buckets.items() if storage_name(each) in storages]


def _read(connection: Connection, condition: ColumnElement[bool], now: datetime) -> list[LiveGrant]:
    return [LiveGrant(*row) for row in connection.execute(_query(now).where(condition))]


def _query(now: datetime) -> Any:
    return (
        select(
            *(Batch.tenant, Batch.batch_id, Batch.batch_number, Chunk.chunk_number),
            *(Grant.item_number, Batch.kind, Batch.bucket, Grant.object_key),
            *(Chunk.access_key, Reservation.expires_at),
        )
        .select_from(Reservation)
        .join(Batch, Batch.batch_number == Reservation.batch_number)
        .join(
            Chunk,
            and_(
                Chunk.batch_number == Reservation.batch_number,
                Chunk.chunk_number == Reservation.chunk_number,
            ),
        )
        .join(
            Grant,
            and_(
                Grant.batch_number == Chunk.batch_number,
                Grant.item_number >= _FIRST_ITEM,
                Grant.item_number < _FIRST_ITEM + Batch.chunk_size,
            ),
        )
        .where(Reservation.expires_at > now, Grant.digest.is_not(None))
        .order_by(Batch.batch_number, Grant.item_number)
    )


def open_batches(
    connection: Connection, target: Target, config: TenantConfig
) -> list[tuple[str, str]]:
    """Return tenant and id of the batches of a batch or tenant that still accept chunks.

    They need not have a live grant.
    """
    if target.kind not in {"batch", "tenant"}:
        return []
    query = (
        select(Batch.tenant, Batch.batch_id)
        .join(Reservation, Reservation.batch_number == Batch.batch_number)
        .where(Reservation.chunk_number == REMAINING, _is_targeted(connection, target, config))
    )
    return [(tenant, batch_id) for tenant, batch_id in connection.execute(query)]
