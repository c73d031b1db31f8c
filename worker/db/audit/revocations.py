"""The revocations of one grant, or of the grants of one batch."""

from datetime import datetime

from sqlalchemy import ColumnElement, Connection, select

from models import Bucket, Grant
from valetkey.wire.grant_ids import split_grant_id
from worker.core.revocation.targets import RecordedRevocation, RevokedItem, covers
from worker.core.tenants.storage_names import qualified_name
from worker.db.revocation.recorded import revocations_since


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
