"""The revocations of one grant, of the grants of one batch, and the list of all."""

from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, select

from models import Bucket, Denial, Grant, Revocation
from valetkey.wire.grant_ids import split_grant_id
from worker.core.revocation.targets import RecordedRevocation, RevokedItem, covers
from worker.core.tenants.storage_names import qualified_name
from worker.db.audit.pages import Page, fetch_page
from worker.db.audit.selection.tenant_filter import is_of_tenant
from worker.db.revocation.recorded import revocations_since


class RevocationRecord(NamedTuple):
    """A revocation of one tenant: when, by whom and why, and what it ended.

    bucket is the bucket profile of a key or prefix. grants counts live grants, the last of which
    ends at until. statements are the names of the buckets whose policies have a statement of this
    revocation; it is removed after until.
    """

    at: datetime
    tenant: str
    revoked_by: str
    reason: str | None
    kind: str
    target: str
    bucket: str | None
    grants: int
    until: datetime
    statements: tuple[str, ...]


def read_revocations(
    connection: Connection, limit: int, *, tenant: str | None, since: datetime | None
) -> Page[RevocationRecord]:
    """Read at most limit revocations, newest first. A filter that is None matches everything."""
    statements: dict[str, tuple[str, ...]] = {}
    denials = select(Denial.revocation_id, Denial.storage).order_by(Denial.storage)
    for revocation_id, storage in connection.execute(denials):
        statements[revocation_id] = (*statements.get(revocation_id, ()), storage)
    query = select(
        *(Revocation.revoked_at, Revocation.tenant, Revocation.revoked_by, Revocation.reason),
        *(Revocation.target_kind, Revocation.target, Revocation.bucket, Revocation.grants),
        *(Revocation.lapses_at, Revocation.revocation_id),
    )
    if tenant is not None:
        query = query.where(is_of_tenant(connection, Revocation.tenant, tenant))
    if since is not None:
        query = query.where(Revocation.revoked_at >= since)
    query = query.order_by(Revocation.revoked_at.desc(), Revocation.tenant)

    def read(row: Any) -> RevocationRecord:
        *values, revocation_id = row
        return RevocationRecord._make((*values, statements.get(revocation_id, ())))

    return fetch_page(connection, query, limit, read)


def read_item_revocations(
    connection: Connection, tenant_id: str, item: RevokedItem, issued_at: datetime
) -> tuple[RecordedRevocation, ...]:
    """Return the revocations that cover an item of a tenant, the oldest first."""
    found = revocations_since(connection, tenant_id, issued_at)
    return tuple(each for each in found if covers(each, item))


def read_batch_revocations(
    connection: Connection, tenant_id: str, batch_number: int, item: RevokedItem, since: datetime
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


def _covers_some(
    connection: Connection, batch_number: int, item: RevokedItem, revocation: RecordedRevocation
) -> bool:
    target = revocation.target
    match target.kind:
        case "grant":
            return split_grant_id(target.value)[0] == item.batch_id
        case "key":
            condition: ColumnElement[bool] = Grant.object_key == target.value
        case "prefix":
            condition = Grant.object_key.startswith(target.value, autoescape=True)
        case _:
            return covers(revocation, item)
    query = select(Grant.object_key).where(Grant.batch_number == batch_number, condition).limit(1)
    object_key = connection.scalar(query)
    return object_key is not None and covers(revocation, item._replace(object_key=object_key))
