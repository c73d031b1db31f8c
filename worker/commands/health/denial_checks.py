"""The check that statements of revocations can be kept in bucket policies, and removed again."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from worker.commands.health.checks import OVERDUE_AFTER, Check, State
from worker.core.revocation.bucket_policy import MAX_POLICY_BYTES
from worker.core.tenants.config import TenantConfig
from worker.core.tenants.storage_names import storage_name
from worker.db.revocation.rows import DenialRow, read_denials

_LITTLE_LEFT = 2_048  # bytes: the next revocation of a few keys may not fit


class DenialFacts(NamedTuple):
    """Statements of our own: those to keep, and those that should be removed by now."""

    kept: Sequence[DenialRow]
    overdue: Sequence[DenialRow]


def read_denial_facts(connection: Connection, now: datetime) -> DenialFacts:
    """Read the statements that revocations added."""
    return DenialFacts(*read_denials(connection, now - OVERDUE_AFTER))


def check_denials(facts: DenialFacts, config: TenantConfig) -> Iterator[Check]:
    """Say what is left of the policies with statements of revocations, and warn if it is little.

    Warns of statements that are not in their policy, of those that should be removed by now, and of
    buckets to which no profile leads any more.
    """
    known = {storage_name(bucket) for bucket in config.buckets.values()}
    storages = {denial.storage for denial in [*facts.kept, *facts.overdue]}
    missing = sorted({denial.storage for denial in facts.kept if denial.policy_bytes is None})
    if missing:
        text = f"statements of revocations are not in the policy of {', '.join(missing)}"
        hint = "storage may accept revoked links; the upkeep worker's log has denials_left"
        yield Check("denials", "warn", text, hint)
    sizes = {each.storage: each.policy_bytes for each in facts.kept if each.policy_bytes}
    for storage, size in sorted(sizes.items()):
        left = MAX_POLICY_BYTES - size
        text = f"{left:,} of {MAX_POLICY_BYTES:,} bytes are left of the policy of {storage}"
        state: State = "warn" if left < _LITTLE_LEFT else "ok"
        hint = "revoke prefixes instead of single keys: docs/usage.md, Taking back"
        yield Check("denials", state, text, hint if state == "warn" else None)
    for storage in sorted(storages - known):
        text = f"{storage} has statements of revocations, and no bucket profile leads to it"
        hint = "add a bucket profile again until they are removed: docs/usage.md, Taking back"
        yield Check("denials", "warn", text, hint)
    overdue = sorted({denial.storage for denial in facts.overdue} & known)
    if overdue:
        text = f"statements of revocations are not removed from {', '.join(overdue)}"
        hint = "the log of the upkeep worker has the reason, as denials_left"
        yield Check("denials", "warn", text, hint)
