"""The checks and metrics of statements that revocations add to the policies of buckets."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime

from prometheus_client.core import Metric
from sqlalchemy import Connection

from worker.revoke.policy_document import MAX_POLICY_BYTES
from worker.revoke.revocation_rows import DenialRow, read_denials
from worker.rules.issued_grants import storage_name
from worker.rules.tenant_config import TenantConfig
from worker.shared.monitoring import OVERDUE_AFTER, Check, Family, State, Window

LITTLE_LEFT = 2_048  # bytes: the next revocation of a few keys may not fit


def database_checks(connection: Connection, config: TenantConfig, now: datetime) -> Iterator[Check]:
    """Check the statements in the policies of buckets."""
    yield from check_denials(*read_denials(connection, now - OVERDUE_AFTER), config)


def check_denials(
    kept: Sequence[DenialRow], overdue: Sequence[DenialRow], config: TenantConfig
) -> Iterator[Check]:
    """Say what is left of the policies with statements of revocations, and warn if it is little.

    kept are statements that belong into their policy, overdue those that should be removed by now.
    Warns of both if they are not, and of buckets to which no profile leads any more.
    """
    known = {storage_name(bucket) for bucket in config.buckets.values()}
    storages = {denial.storage for denial in [*kept, *overdue]}
    missing = sorted({denial.storage for denial in kept if denial.policy_bytes is None})
    if missing:
        text = f"statements of revocations are not in the policy of {', '.join(missing)}"
        hint = "storage may accept revoked links; the upkeep worker's log has denials_left"
        yield Check("denials", "warn", text, hint)
    sizes = {each.storage: each.policy_bytes for each in kept if each.policy_bytes}
    for storage, size in sorted(sizes.items()):
        left = MAX_POLICY_BYTES - size
        text = f"{left:,} of {MAX_POLICY_BYTES:,} bytes are left of the policy of {storage}"
        state: State = "warn" if left < LITTLE_LEFT else "ok"
        hint = "revoke prefixes instead of single keys: docs/revoking.md"
        yield Check("denials", state, text, hint if state == "warn" else None)
    for storage in sorted(storages - known):
        text = f"{storage} has statements of revocations, and no bucket profile leads to it"
        hint = "add a bucket profile again until they are removed: docs/revoking.md"
        yield Check("denials", "warn", text, hint)
    late = sorted({denial.storage for denial in overdue} & known)
    if late:
        text = f"statements of revocations are not removed from {', '.join(late)}"
        hint = "the log of the upkeep worker has the reason, as denials_left"
        yield Check("denials", "warn", text, hint)


_MISSING = Family(
    "denials_missing",
    "Statements of revocations that are not in the policy of their bucket, by bucket profile.",
    ("bucket",),
)
_POLICY_LEFT = Family(
    "bucket_policy_free_bytes",
    "Bytes that are left of the policy of a bucket with statements of revocations.",
    ("bucket",),
)


def read_policies(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    """Yield which statements are missing, and what is left of each policy."""
    denials, _ = read_denials(connection, now)
    missing = Counter(each.bucket for each in denials if each.policy_bytes is None)
    yield _MISSING.samples({each.bucket: missing[each.bucket] for each in denials})
    yield _POLICY_LEFT.samples(
        {each.bucket: MAX_POLICY_BYTES - each.policy_bytes for each in denials if each.policy_bytes}
    )
