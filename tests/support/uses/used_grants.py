"""The grants with which reports of uses are compared."""

from datetime import UTC, datetime
from typing import Any

from tests.support.uses.reports import BUCKET
from worker.uses.use_reports import UsedGrant

ISSUED = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
BATCH = "0199a000-0000-7000-8000-000000000001"
KEY = "acme/a.png"


def used_grant(kind: str = "upload", **changes: Any) -> UsedGrant:
    """Return a grant of acme that was issued for five minutes."""
    grant = UsedGrant(
        tenant="acme",
        batch_number=1,
        batch_id=BATCH,
        chunk_number=0,
        item_number=0,
        kind=kind,
        bucket="demo",
        real_buckets=frozenset({BUCKET}),
        object_key=KEY,
        issued_at=ISSUED,
        expires_in=300,
        terms={"min_size": 5, "max_size": 20, "content_type": "image/*"},
        detail={},
    )
    return grant._replace(**changes)
