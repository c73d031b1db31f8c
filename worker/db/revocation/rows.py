"""Inserts revocations with their leaves, and finds those that cover an item."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import NamedTuple, cast

from sqlalchemy import Connection, delete, insert, select

from models import Denial, Revocation
from worker.core.revocation.targets import Target, TargetKind
from worker.core.tree.records import encode_record, entry_hash
from worker.db.tree.append import NewLeaf, append_leaf

_SINCE = select(Revocation.target_kind, Revocation.target, Revocation.bucket)


class NewRevocation(NamedTuple):
    """A revocation to record: its grants by tenant id, who revoked them, and why."""

    revocation_id: str
    target: Target
    grants: Mapping[str, int]
    revoked_by: str
    reason: str | None
    lapses_at: datetime


class DenialRow(NamedTuple):
    """A statement of our own: its Sid, and the bucket profile whose bucket has it."""

    sid: str
    bucket: str


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
    statements = [{**denial._asdict(), **_of_revocation(revocation)} for denial in denials]
    if statements:
        connection.execute(insert(Denial), statements)
    for tenant, row in rows.items():
        record = encode_record("revocation", row)
        leaf = NewLeaf("revocation", entry_hash([record]), reference=revocation.revocation_id)
        append_leaf(connection, tenant, leaf)


def _of_revocation(revocation: NewRevocation) -> dict[str, object]:
    return {"revocation_id": revocation.revocation_id, "lapses_at": revocation.lapses_at}


def revocations_since(connection: Connection, tenant_id: str, issued_at: datetime) -> list[Target]:
    """Return the targets of a tenant's revocations that are not older than a chunk."""
    since = Revocation.tenant == tenant_id, Revocation.revoked_at >= issued_at
    rows = connection.execute(_SINCE.where(*since))
    return [Target(cast("TargetKind", kind), target, bucket) for kind, target, bucket in rows]


def lapsed_denials(connection: Connection, now: datetime) -> list[DenialRow]:
    """Return the statements whose last grant has expired."""
    query = select(Denial.sid, Denial.bucket).where(Denial.lapses_at <= now)
    return [DenialRow(*row) for row in connection.execute(query)]


def delete_denials(connection: Connection, sids: Iterable[str]) -> None:
    """Delete the rows of statements that were removed from their policies."""
    connection.execute(delete(Denial).where(Denial.sid.in_(list(sids))))
