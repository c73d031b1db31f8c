"""Plans a revocation: which live grants it ends, by which levers, and which others with them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from models import Batch, Chunk, Grant, Reservation
from valetkey.wire.grant_ids import split_grant_id
from worker.base.database_engine import snapshot_transaction
from worker.context import Context
from worker.ledger.reservations import REMAINING
from worker.revoke.kept_statements import find_earlier
from worker.revoke.levers import Denial, Lever, plan_levers
from worker.revoke.revocation_rows import LiveDenial, has_prefix, read_live_denials
from worker.revoke.revocation_targets import LiveGrant, Target
from worker.rules.issued_grants import storage_name
from worker.rules.tenant_config import TenantConfig
from worker.shared.grant_items import is_in_chunk
from worker.shared.tenant_history import is_of_tenant


def read_beside(
    connection: Connection, targeted: Sequence[LiveGrant], config: TenantConfig, now: datetime
) -> list[LiveGrant]:
    """Return the live grants in the same buckets, and those of the same roles and access keys."""
    buckets = {grant.bucket for grant in targeted}
    known = [config.buckets[name] for name in buckets if name in config.buckets]
    roles = {profile.role_arn for profile in known if profile.role_arn}
    same_role = {name for name, each in config.buckets.items() if each.role_arn in roles}
    profiles = buckets | same_role | set(_profiles_of(map(storage_name, known), config))
    keys = {grant.access_key for grant in targeted if grant.access_key}
    beside = or_(Batch.bucket.in_(profiles), Chunk.access_key.in_(keys))
    return _read_live_grants(connection, beside, now)


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
            return and_(_in_bucket(target, config), has_prefix(target.value))
        case "tenant":
            return is_of_tenant(connection, Batch.tenant, target.value)
        case "credentials":
            return Chunk.access_key == target.value


def _is_batch(connection: Connection, batch_id: str, tenant: str | None) -> ColumnElement[bool]:
    is_batch = Batch.batch_id == batch_id
    return is_batch if tenant is None else is_batch & is_of_tenant(connection, Batch.tenant, tenant)


def _in_bucket(target: Target, config: TenantConfig) -> ColumnElement[bool]:
    """Select the profiles that lead to the same real bucket as the target's."""
    storage = storage_name(config.buckets[target.bucket or ""])
    return Batch.bucket.in_(_profiles_of({storage}, config))


def _profiles_of(names: Iterable[str], config: TenantConfig) -> list[str]:
    storages = set(names)
    return [name for name, each in config.buckets.items() if storage_name(each) in storages]


def _read_live_grants(
    connection: Connection, condition: ColumnElement[bool], now: datetime
) -> list[LiveGrant]:
    query = (
        select(
            *(Batch.tenant, Batch.batch_id, Batch.batch_number, Chunk.chunk_number),
            *(Grant.item_number, Batch.kind, Batch.bucket, Grant.object_key),
            *(Chunk.access_key, Reservation.expires_at),
        )
        .select_from(Reservation)
        .join(Batch, Batch.batch_number == Reservation.batch_number)
        .join(
            Chunk,
            (Chunk.batch_number == Reservation.batch_number)
            & (Chunk.chunk_number == Reservation.chunk_number),
        )
        .join(Grant, is_in_chunk())
        .where(Reservation.expires_at > now, Grant.digest.is_not(None), condition)
        .order_by(Batch.batch_number, Grant.item_number)
    )
    return list(map(LiveGrant._make, connection.execute(query)))


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


@dataclass(frozen=True, slots=True)
class RevocationPlan:
    """A target, the live grants within it, and the levers that end them.

    unsent are the tenants and ids of batches that still accept chunks: they will be cancelled.
    With ends_sessions, the sessions of roles will be ended, which ends the grants of all tenants
    that share them. earlier are statements that already deny all that a lever would, by the lever's
    place, and live_denials all statements that deny anything.
    """

    target: Target
    config: TenantConfig
    targeted: Sequence[LiveGrant]
    levers: Sequence[Lever]
    unsent: Sequence[tuple[str, str]]
    ends_sessions: bool = False
    earlier: Mapping[str, LiveDenial] = field(default_factory=dict)
    live_denials: Sequence[LiveDenial] = ()

    @property
    def is_empty(self) -> bool:
        """True if there is nothing to revoke."""
        return not self.targeted and not self.unsent

    @property
    def denials(self) -> list[Denial]:
        """The levers that deny objects in the policy of a bucket."""
        denials = [lever for lever in self.levers if isinstance(lever, Denial)]
        return [denial for denial in denials if denial.problem is None]

    @property
    def session_ends(self) -> list[Lever]:
        """The levers that end the sessions of a role, if that was asked for."""
        return [each for each in self.levers if each.name == "end_sessions" and self.ends_sessions]

    @property
    def tenants(self) -> list[str]:
        """The ids of the tenants that it touches."""
        return sorted({grant.tenant for grant in self.targeted} | {id_ for id_, _ in self.unsent})


def plan_revocation(
    target: Target,
    context: Context,
    done: Iterable[LiveGrant] = (),
    *,
    ends_sessions: bool = False,
) -> RevocationPlan:
    """Read what a target covers now, and plan its levers. Raises Transient.

    The grants that are done are left out.
    """
    config, now = context.config.current(), context.now()
    is_done = {grant.full_id for grant in done}
    with snapshot_transaction(context.engine) as connection:
        is_targeted = _is_targeted(connection, target, config)
        targeted = [
            grant
            for grant in _read_live_grants(connection, is_targeted, now)
            if grant.full_id not in is_done
        ]
        beside = read_beside(connection, targeted, config, now) if targeted else []
        unsent = open_batches(connection, target, config)
        denials = read_live_denials(connection, now)
    s3 = context.s3
    levers = [
        replace(lever, host=s3.host(lever.profile), is_aws=s3.is_aws(lever.profile))
        if isinstance(lever, Denial)
        else lever
        for lever in plan_levers(target, targeted, beside, config)
    ]
    return RevocationPlan(
        *(target, config, targeted, levers, unsent, ends_sessions),
        earlier=find_earlier(levers, denials),
        live_denials=denials,
    )
