"""The check that statements of revocations can be kept in bucket policies, and removed again."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from worker.commands.health.checks import OVERDUE_AFTER, Check
from worker.core.tenants.config import TenantConfig
from worker.core.tenants.storage_names import storage_name
from worker.db.revocation.rows import DenialRow, read_denials


class DenialFacts(NamedTuple):
    """Statements of our own: those to keep, and those that should be removed by now."""

    kept: Sequence[DenialRow]
    overdue: Sequence[DenialRow]


def read_denial_facts(connection: Connection, now: datetime) -> DenialFacts:
    """Read the statements that revocations added."""
    return DenialFacts(*read_denials(connection, now - OVERDUE_AFTER))


def check_denials(facts: DenialFacts, config: TenantConfig) -> Iterator[Check]:
    """Warn of buckets to which no profile leads any more, and of statements that are overdue."""
    known = {storage_name(bucket) for bucket in config.buckets.values()}
    storages = {denial.storage for denial in [*facts.kept, *facts.overdue]}
    for storage in sorted(storages - known):
        text = f"{storage} has statements of revocations, and no bucket profile leads to it"
        hint = "add a bucket profile again until they are removed: docs/usage.md, Taking back"
        yield Check("denials", "warn", text, hint)
    overdue = sorted({denial.storage for denial in facts.overdue} & known)
    if overdue:
        text = f"statements of revocations are not removed from {', '.join(overdue)}"
        hint = "the log of the upkeep worker has the reason, as denials_left"
        yield Check("denials", "warn", text, hint)
