"""Reads the revocations of a tenant. Audit commands do so without the modules that write them."""

from datetime import datetime
from typing import cast

from sqlalchemy import Connection, select

from models import Revocation
from worker.core.revocation.targets import RecordedRevocation, Target, TargetKind
from worker.core.uses.reports import CLOCK_SKEW

_SINCE = select(
    *(Revocation.target_kind, Revocation.target, Revocation.bucket, Revocation.storage),
    *(Revocation.revoked_by, Revocation.reason, Revocation.revoked_at),
).order_by(Revocation.revoked_at, Revocation.revocation_id)


def revocations_since(
    connection: Connection, tenant_id: str, issued_at: datetime
) -> list[RecordedRevocation]:
    """Return a tenant's revocations that are not older than a chunk, the oldest first.

    The clock of the worker that issued it may be ahead of the one of the operator.
    """
    since = Revocation.tenant == tenant_id, Revocation.revoked_at >= issued_at - CLOCK_SKEW
    return [
        RecordedRevocation(Target(cast("TargetKind", kind), target, bucket), storage, by, why, at)
        for kind, target, bucket, storage, by, why, at in connection.execute(_SINCE.where(*since))
    ]
