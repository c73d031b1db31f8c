"""The columns of exported audit rows, as typed records."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from valetkey.wire.grant_ids import grant_id
from worker.db.audit.filters import ISSUED
from worker.db.audit.stream import ChunkItems


class GrantRecord(NamedTuple):
    """One requested item. decision is `issued` or the code of the refusal. tenant is an id.

    signed_by is the name of the tenant's key that signed the request; None if it was not signed.
    recipient is for whom the grant was requested. expires_at is None for a refused item.
    """

    time: datetime
    tenant: str
    requested_by: str
    signed_by: str | None
    recipient: str | None
    reason: str | None
    bucket: str
    kind: str
    key: str
    decision: str
    expires_at: datetime | None
    grant: str


COLUMNS = GrantRecord._fields


def to_records(block: list[ChunkItems]) -> Iterator[GrantRecord]:
    """Yield the records of a block."""
    for head, items in block:
        expires_at = head.expires_at
        for _, item_number, key, code in items:
            yield GrantRecord(
                head.time,
                head.tenant,
                head.requested_by,
                head.signed_by,
                head.recipient,
                head.reason,
                head.bucket,
                head.kind,
                key,
                code or ISSUED,
                None if code else expires_at,
                grant_id(head.batch_id, item_number),
            )
