"""Refuses to sign items again that were revoked."""

from collections.abc import Iterable
from dataclasses import replace

from valetkey.wire.refusals import Code, Refusal
from worker.core.policy.decisions import GrantRow, RecordedChunk, refused_item_result
from worker.core.revocation.targets import RevokedItem, Target, covers
from worker.core.tenants.config import TenantConfig

REVOKED = Refusal(
    code=Code.REVOKED, field="batch", message="the grant was revoked: request another one"
)


def refuse_revoked(
    recorded: RecordedChunk, targets: Iterable[Target], config: TenantConfig
) -> RecordedChunk:
    """Return a committed chunk whose revoked items are refused; their rows keep their digests."""
    revocations = [(target, _real_bucket(target.bucket, config)) for target in targets]
    real_bucket = _real_bucket(recorded.terms.bucket, config) or ""

    def refuse(row: GrantRow) -> GrantRow:
        item = RevokedItem(recorded.batch_id, row.item_number, real_bucket, row.object_key)
        if row.code is not None or not any(covers(target, b, item) for target, b in revocations):
            return row
        detail = refused_item_result(REVOKED, row.object_key)
        return row._replace(code=str(REVOKED.code), detail=detail)

    return replace(recorded, rows=[refuse(row) for row in recorded.rows])


def _real_bucket(profile: str | None, config: TenantConfig) -> str | None:
    bucket = config.buckets.get(profile or "")
    return None if bucket is None else bucket.bucket
