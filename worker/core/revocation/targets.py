"""What a revocation ends: its target, and the live grants within it."""

from datetime import datetime
from typing import Literal, NamedTuple

TargetKind = Literal["grant", "batch", "key", "prefix", "tenant", "credentials"]


class Target(NamedTuple):
    """What is to be revoked.

    value is a grant id, a batch id, an object key, a prefix of object keys, a tenant's id, or the
    public id of an access key. bucket is the bucket profile of a key or prefix.
    """

    kind: TargetKind
    value: str
    bucket: str | None = None


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
        return f"{self.batch_id}.{self.item_number}"


class RevokedItem(NamedTuple):
    """The parts of a recorded item that decide whether a revocation covers it.

    real_bucket is the bucket to which its profile leads.
    """

    batch_id: str
    item_number: int
    real_bucket: str
    object_key: str


def covers(target: Target, real_bucket: str | None, item: RevokedItem) -> bool:
    """Return whether a target covers an item of the tenant that it was recorded for.

    real_bucket is that of the target's bucket profile. Credentials cover nothing here: an item
    that they signed may be signed again with others.
    """
    match target.kind:
        case "grant":
            return target.value == f"{item.batch_id}.{item.item_number}"
        case "batch":
            return target.value == item.batch_id
        case "key":
            return item.real_bucket == real_bucket and item.object_key == target.value
        case "prefix":
            return item.real_bucket == real_bucket and item.object_key.startswith(target.value)
        case "tenant":
            return True
        case _:
            return False
