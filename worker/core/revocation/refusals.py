"""Refuses to sign items again that were revoked."""

from collections.abc import Sequence
from dataclasses import replace

from valetkey.wire.refusals import Code, Refusal
from worker.core.policy.decisions import GrantRow, RecordedChunk, refused_item_result
from worker.core.revocation.targets import RecordedRevocation, RevokedItem, covers
from worker.core.tenants.config import TenantConfig
from worker.core.tenants.storage_names import storage_name

REVOKED = Refusal(
    code=Code.REVOKED, field="batch", message="the grant was revoked: request another one"
)


def refuse_revoked(
    recorded: RecordedChunk, revocations: Sequence[RecordedRevocation], config: TenantConfig
) -> RecordedChunk:
    """Return a committed chunk whose revoked items are refused; their rows keep their digests."""
    profile = config.buckets.get(recorded.terms.bucket)
    storage = None if profile is None else storage_name(profile)

    def refuse(row: GrantRow) -> GrantRow:
        item = RevokedItem(
            recorded.batch_id, row.item_number, recorded.terms.bucket, storage, row.object_key
        )
        if row.code is not None or not any(covers(each, item) for each in revocations):
            return row
        detail = refused_item_result(REVOKED, row.object_key)
        return row._replace(code=str(REVOKED.code), detail=detail)

    return replace(recorded, rows=[refuse(row) for row in recorded.rows])
