"""Inserts and reads revocations, and the rows of their statements."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple, cast

from sqlalchemy import ColumnElement, Connection, bindparam, delete, func, insert, select, update

from models import Bucket, Denial, Grant, Revocation
from valetkey.wire.grant_ids import split_grant_id
from valetkey.wire.refusals import Code, Refusal
from worker.base.database_engine import DriverStatement
from worker.ledger.merkle import encode_record, entry_hash
from worker.ledger.tree_leaves import NewLeaf, append_leaf
from worker.revoke.revocation_targets import RecordedRevocation, Target, TargetKind, covers
from worker.rules.issued_grants import IssuedItem, qualified_name
from worker.rules.policy_rules import refuse
from worker.shared.reported_values import CLOCK_SKEW


class DenialRow(NamedTuple):
    """A statement of our own: its Sid, the bucket profile whose bucket has it, and its JSON.

    storage is the name of that bucket. policy_bytes is the size of its policy when the statement
    was last seen in it, and None if it is not. It denies until lapses_at.
    """

    sid: str
    bucket: str
    storage: str
    statement: str
    lapses_at: datetime
    policy_bytes: int | None = None


def insert_revocation(
    connection: Connection,
    revocation: Mapping[str, Any],
    grants: Mapping[str, int],
    denials: Iterable[DenialRow],
) -> None:
    """Insert a revocation for each tenant, and the statements that will be added to policies.

    It has all columns but the tenant and the number of its grants, which are in grants. Call it
    last in the transaction, as `append_leaf` says.
    """
    rows = [
        {**revocation, "tenant": tenant, "grants": number}
        for tenant, number in sorted(grants.items())
    ]
    connection.execute(insert(Revocation), rows)
    id_ = revocation["revocation_id"]
    statements = [{**denial._asdict(), "revocation_id": id_} for denial in denials]
    if statements:
        connection.execute(insert(Denial), statements)
    for row in rows:
        leaf = NewLeaf("revocation", entry_hash([encode_record("revocation", row)]), reference=id_)
        append_leaf(connection, row["tenant"], leaf)


_DENIAL_COLUMNS = tuple(getattr(Denial, name) for name in DenialRow._fields)


def read_denials(
    connection: Connection, now: datetime, storage: str | None = None
) -> tuple[list[DenialRow], list[DenialRow]]:
    """Return the statements that still deny a grant, and those whose last grant has expired.

    Those that are in a policy come first. storage is a bucket's name; None means all.
    """
    query = select(*_DENIAL_COLUMNS).order_by(Denial.policy_bytes.is_(None), Denial.sid)
    if storage is not None:
        query = query.where(Denial.storage == storage)
    live: list[DenialRow] = []
    lapsed: list[DenialRow] = []
    for row in map(DenialRow._make, connection.execute(query)):
        (lapsed if row.lapses_at <= now else live).append(row)
    return live, lapsed


class LiveDenial(NamedTuple):
    """A statement that still denies a grant, and the first one who revoked with it."""

    row: DenialRow
    revoked_by: str
    revoked_at: datetime


def read_live_denials(connection: Connection, now: datetime) -> list[LiveDenial]:
    """Return the statements that still deny a grant, the oldest first."""
    query = (
        select(*_DENIAL_COLUMNS, Revocation.revoked_by, Revocation.revoked_at)
        .join(Revocation, Revocation.revocation_id == Denial.revocation_id)
        .where(Denial.lapses_at > now)
        .order_by(Revocation.revoked_at, Denial.sid)
    )
    return [
        LiveDenial(DenialRow._make(values), by, at) for *values, by, at in connection.execute(query)
    ]


def store_policy_bytes(connection: Connection, sids: Iterable[str], size: int | None) -> None:
    """Store the size of the policy that has statements, or None if they are not in it."""
    denials = update(Denial).where(Denial.sid.in_(list(sids)))
    connection.execute(denials.values(policy_bytes=size))


def delete_denials(connection: Connection, sids: Iterable[str]) -> None:
    """Delete the rows of statements that are not in their policies, or were never added."""
    connection.execute(delete(Denial).where(Denial.sid.in_(list(sids))))


_REVOCATIONS = DriverStatement(
    select(
        *(Revocation.target_kind, Revocation.target, Revocation.bucket, Revocation.storage),
        *(Revocation.revoked_by, Revocation.reason, Revocation.revoked_at),
    )
    .where(Revocation.tenant == bindparam("of_tenant"), Revocation.revoked_at >= bindparam("since"))
    .order_by(Revocation.revoked_at, Revocation.revocation_id)
)


def revocations_since(
    connection: Connection, tenant_id: str, issued_at: datetime
) -> list[RecordedRevocation]:
    """Return a tenant's revocations that are not older than a chunk, the oldest first.

    The clock of the worker that issued it may be ahead of the one of the operator.
    """
    params = {"of_tenant": tenant_id, "since": issued_at - CLOCK_SKEW}
    return [
        RecordedRevocation(Target(cast("TargetKind", kind), target, bucket), storage, by, why, at)
        for kind, target, bucket, storage, by, why, at in _REVOCATIONS.run(connection, params)
    ]


_REVOKED = refuse(Code.REVOKED, "batch", "the grant was revoked: request another one")


def find_withdrawn(
    connection: Connection, tenant_id: str, issued_at: datetime, items: Iterable[IssuedItem]
) -> dict[int, Refusal]:
    """Refuse the items that were revoked since they were issued, by their number."""
    revocations = revocations_since(connection, tenant_id, issued_at)
    if not revocations:
        return {}
    return {
        item.item_number: _REVOKED
        for item in items
        if any(covers(each, item) for each in revocations)
    }


def read_item_revocations(
    connection: Connection, tenant_id: str, item: IssuedItem, issued_at: datetime
) -> tuple[RecordedRevocation, ...]:
    """Return the revocations that cover an item of a tenant, the oldest first."""
    found = revocations_since(connection, tenant_id, issued_at)
    return tuple(each for each in found if covers(each, item))


def read_batch_revocations(
    connection: Connection, tenant_id: str, batch_number: int, item: IssuedItem, since: datetime
) -> tuple[RecordedRevocation, ...]:
    """Return the revocations that cover a batch, or some of its items.

    item is any item of the batch.
    """
    found = revocations_since(connection, tenant_id, since)
    return tuple(each for each in found if _covers_some(connection, batch_number, item, each))


def read_storage(connection: Connection, profile: str) -> str | None:
    """Return the name of the real bucket to which a profile leads today, or None if it was removed.

    It is the one that `storage_name` returns.
    """
    query = select(Bucket.bucket, Bucket.endpoint).where(Bucket.name == profile)
    row = connection.execute(query).first()
    return None if row is None else qualified_name(row.bucket, row.endpoint)


def has_prefix(prefix: str) -> ColumnElement[bool]:
    """Return the condition that a grant's object key begins so. LIKE of SQLite ignores the case."""
    return func.substr(Grant.object_key, 1, len(prefix)) == prefix


def _covers_some(
    connection: Connection, batch_number: int, item: IssuedItem, revocation: RecordedRevocation
) -> bool:
    target = revocation.target
    match target.kind:
        case "grant":
            return split_grant_id(target.value)[0] == item.batch_id
        case "key":
            condition: ColumnElement[bool] = Grant.object_key == target.value
        case "prefix":
            condition = has_prefix(target.value)
        case _:
            return covers(revocation, item)
    query = select(Grant.object_key).where(Grant.batch_number == batch_number, condition).limit(1)
    object_key = connection.scalar(query)
    return object_key is not None and covers(revocation, item._replace(object_key=object_key))
