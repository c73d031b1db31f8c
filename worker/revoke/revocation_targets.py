"""The target of a revocation, and the live grants within it."""

from datetime import datetime
from typing import Literal, NamedTuple

from valetkey.wire.grant_ids import grant_id
from worker.rules.issued_grants import IssuedItem

TargetKind = Literal["grant", "batch", "key", "prefix", "tenant", "credentials"]


class Target(NamedTuple):
    """The grants to revoke.

    value is a grant id, a batch id, an object key, a prefix of object keys, a tenant's id, or the
    public id of an access key. bucket is the bucket profile of a key or prefix. tenant is the
    tenant of a grant or batch; None means each tenant that chose this batch id.
    """

    kind: TargetKind
    value: str
    bucket: str | None = None
    tenant: str | None = None


class LiveGrant(NamedTuple):
    """An issued grant that has not expired. bucket is its bucket profile."""

    tenant: str
    batch_id: str
    batch_number: int
    chunk_number: int
    item_number: int
    kind: str
    bucket: str
    object_key: str
    access_key: str | None
    expires_at: datetime

    @property
    def id(self) -> str:
        """The id of the grant."""
        return grant_id(self.batch_id, self.item_number)

    @property
    def full_id(self) -> tuple[str, str]:
        """The ids of tenant and grant: tenants choose the ids of batches, and may choose one."""
        return self.tenant, self.id


class RecordedRevocation(NamedTuple):
    """A revocation of one tenant. storage is the name of the real bucket of a key or prefix."""

    target: Target
    storage: str | None
    revoked_by: str
    reason: str | None
    revoked_at: datetime


def covers(revocation: RecordedRevocation, item: IssuedItem) -> bool:
    """Return whether a revocation covers an item of its tenant.

    A key or prefix is meant in the profile that was named, wherever that leads today, and in every
    other profile that leads to the same real bucket. Credentials cover nothing here: an item that
    they signed may be signed again with others.
    """
    target = revocation.target
    is_in_bucket = item.bucket == target.bucket or (
        item.storage is not None and item.storage == revocation.storage
    )
    match target.kind:
        case "grant":
            return target.value == grant_id(item.batch_id, item.item_number)
        case "batch":
            return target.value == item.batch_id
        case "key":
            return is_in_bucket and item.object_key == target.value
        case "prefix":
            return is_in_bucket and item.object_key.startswith(target.value)
        case "tenant":
            return True
        case _:
            return False
