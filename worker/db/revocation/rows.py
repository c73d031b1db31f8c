"""Inserts revocations with their leaves, and the rows of statements in bucket policies."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from models import Denial, Revocation
from worker.core.revocation.targets import Target
from worker.core.tree.records import encode_record, entry_hash
from worker.db.tree.append import NewLeaf, append_leaf


class NewRevocation(NamedTuple):
    """A revocation to record: its grants by tenant id, who revoked them, and why.

    storage is the name of the real bucket of a key or prefix.
    """

    revocation_id: str
    target: Target
    grants: Mapping[str, int]
    revoked_by: str
    reason: str | None
    lapses_at: datetime
    storage: str | None = None


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
    connection: Connection, revocation: NewRevocation, denials: Iterable[DenialRow], now: datetime
) -> None:
    """Insert a revocation for each tenant, and the statements that will be added to policies.

    Call it last in the transaction, as `append_leaf` says.
    """
    common = {
        "revocation_id": revocation.revocation_id,
        "target_kind": revocation.target.kind,
        "target": revocation.target.value,
        "bucket": revocation.target.bucket,
        "storage": revocation.storage,
        "revoked_by": revocation.revoked_by,
        "reason": revocation.reason,
        "revoked_at": now,
        "lapses_at": revocation.lapses_at,
    }
    rows = {
        tenant: common | {"tenant": tenant, "grants": grants}
        for tenant, grants in sorted(revocation.grants.items())
    }
    connection.execute(insert(Revocation), list(rows.values()))
    revoked = {"revocation_id": revocation.revocation_id}
    statements = [denial._asdict() | revoked for denial in denials]
    if statements:
        connection.execute(insert(Denial), statements)
    for tenant, row in rows.items():
        record = encode_record("revocation", row)
        leaf = NewLeaf("revocation", entry_hash([record]), reference=revocation.revocation_id)
        append_leaf(connection, tenant, leaf)


_COLUMNS = tuple(getattr(Denial, name) for name in DenialRow._fields)


def read_denials(
    connection: Connection, now: datetime, storage: str | None = None
) -> tuple[list[DenialRow], list[DenialRow]]:
    """Return the statements that still deny a grant, and those whose last grant has expired.

    Those that are in a policy come first. storage is a bucket's name; None means all.
    """
    query = select(*_COLUMNS).order_by(Denial.policy_bytes.is_(None), Denial.sid)
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
        select(*_COLUMNS, Revocation.revoked_by, Revocation.revoked_at)
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
