"""Records uses: compares reports with their grants, and commits what is new."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection

from worker.context import Context
from worker.core.tenants.config import TenantConfig
from worker.core.uses.reports import UseReport, is_credible
from worker.core.uses.used_grant import UsedGrant
from worker.core.uses.verdicts import judge
from worker.db import usage
from worker.db.engine import write_transaction
from worker.db.uses.deliveries import insert_use_deliveries
from worker.db.uses.ended_slots import lock_unsettled
from worker.db.uses.insert import InsertedUses, JudgedUse, append_use_leaves, insert_uses
from worker.db.uses.late_uses import charge_late_uses
from worker.db.uses.stored_bytes import add_stored_bytes
from worker.db.uses.stored_objects import grants_of_objects, update_stored_objects
from worker.db.uses.use_counts import leave_out_excess
from worker.db.uses.used_grants import find_used_grants


class RecordedUses(NamedTuple):
    """The result of a call: the inserted uses, and why each other report is none.

    ignored counts by reason: malformed for a report that cannot be true, no_grant_id,
    unknown_grant, the reasons of `judge`, unknown_object for a deletion under a key of which
    nothing is known, other_object for one of another object than the newest known one of its key,
    too_many_uses beyond MAX_USES of a grant, and known for a use that was recorded before.
    """

    inserted: Sequence[InsertedUses]
    ignored: Counter[str]

    @property
    def total(self) -> int:
        """The number of inserted uses."""
        return sum(len(group.uses) for group in self.inserted)


def record_uses(reports: Iterable[UseReport], context: Context) -> RecordedUses:
    """Record the uses in these reports, in one transaction.

    A report that is told again, by the same source or another one, changes nothing, so a caller
    that is killed repeats all of them. The deliveries for which the requests asked are
    inserted in the same transaction. Raises Transient.
    """
    config = context.config.current()
    with write_transaction(context.engine) as connection:
        now = context.now()  # after the wait for the lock: others compare it with their own times
        told = list(reports)
        credible = [report for report in told if is_credible(report, now)]
        ignored = Counter(malformed=len(told) - len(credible))
        named = _name_deletions(connection, credible, ignored)
        judged = _judge(connection, named, config, ignored)
        # Before what else a settlement locks.
        unsettled = lock_unsettled(connection, {use.grant.chunk for use in judged})
        kept, last = leave_out_excess(connection, judged)
        charged = charge_late_uses(connection, kept, unsettled, last)
        inserted = insert_uses(connection, charged, now, context.new_lease)
        new = [use.report for group in inserted for use in group.uses]
        ignored.update(too_many_uses=len(judged) - len(kept), known=len(kept) - len(new))
        changes = update_stored_objects(connection, judged, frozenset(new), unsettled)
        _charge(connection, inserted, changes, now)
        deliveries = insert_use_deliveries(connection, inserted, now)
        append_use_leaves(connection, inserted)
    if deliveries:
        context.trigger_deliveries()
    return RecordedUses(inserted, +ignored)


def _charge(
    connection: Connection, inserted: Sequence[InsertedUses], changes: Counter[str], now: datetime
) -> None:
    """Charge late uses and the change of stored bytes, by tenant, to avoid deadlocks."""
    late = {group.tenant: sum(use.charged_bytes or 0 for use in group.uses) for group in inserted}
    for tenant_id in sorted(late.keys() | changes.keys()):
        if late.get(tenant_id):
            usage.charge_late(connection, tenant_id, late[tenant_id], now)
        add_stored_bytes(connection, {tenant_id: changes[tenant_id]})


def _name_deletions(
    connection: Connection, reports: Sequence[UseReport], ignored: Counter[str]
) -> list[UseReport]:
    """Return the reports that name a grant. A deletion gets the one that stored the object."""
    nameless = [r for r in reports if r.event == "deleted" and r.grant_id is None]
    stored = grants_of_objects(connection, [(r.bucket, r.object_key) for r in nameless])
    named: list[UseReport] = []
    for report in reports:
        known = stored.get((report.bucket, report.object_key))
        if report.grant_id is not None:
            named.append(report)
        elif report.event != "deleted":
            ignored["no_grant_id"] += 1
        elif known is None:
            ignored["unknown_object"] += 1
        elif known.is_deleted_by(report):
            named.append(report._replace(grant_id=known.grant_id))
        else:
            ignored["other_object"] += 1
    return named


def _judge(
    connection: Connection,
    reports: Sequence[UseReport],
    config: TenantConfig,
    ignored: Counter[str],
) -> list[JudgedUse]:
    grants = find_used_grants(connection, [r.grant_id for r in reports if r.grant_id], config)
    judged: list[JudgedUse] = []
    for report in reports:
        use = _judge_report(report, grants.get(report.grant_id or "", ()))
        if isinstance(use, JudgedUse):
            judged.append(use)
        else:
            ignored[use] += 1
    return judged


def _judge_report(report: UseReport, candidates: Iterable[UsedGrant]) -> JudgedUse | str:
    """Return the use of the first grant that fits, or why none does.

    Tenants choose the ids of their batches. Of two with one id, the later has copied it.
    """
    reason = "unknown_grant"
    for grant in sorted(candidates, key=lambda grant: (grant.issued_at, grant.batch_number)):
        verdict = judge(report, grant)
        if not isinstance(verdict, str):
            return JudgedUse(report, grant, verdict)
        reason = verdict
    return reason
