"""Records uses: compares reports with their grants, and commits what is new."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from sqlalchemy import Connection

from worker.context import Context
from worker.core.tenants.config import TenantConfig
from worker.core.uses.reports import UseReport
from worker.core.uses.verdicts import judge
from worker.db.engine import write_transaction
from worker.db.uses.deliveries import insert_use_deliveries
from worker.db.uses.insert import InsertedUses, JudgedUse, append_use_leaves, insert_uses
from worker.db.uses.stored_bytes import add_stored_bytes
from worker.db.uses.stored_objects import grants_of_objects, update_stored_objects
from worker.db.uses.used_grants import find_used_grants


class RecordedUses(NamedTuple):
    """The result of a call: the inserted uses, and why each other report is none.

    ignored counts by reason: no_grant_id, unknown_grant, ambiguous_grant, the reasons of `judge`,
    other_object for a deletion of another object than the newest known one of its key, and known
    for a use that was recorded before.
    """

    inserted: Sequence[InsertedUses]
    ignored: Counter[str]

    @property
    def total(self) -> int:
        """The number of inserted uses."""
        return sum(len(group.uses) for group in self.inserted)


def record_uses(reports: Iterable[UseReport], context: Context) -> RecordedUses:
    """Record the uses of which these reports tell, in one transaction.

    A report that is told again, by the same source or another one, changes nothing, so a caller
    that is killed repeats all of them. The deliveries for which the requests asked are
    inserted in the same transaction. Raises Transient.
    """
    told, now = list(reports), context.now()
    config = context.config.current()
    with write_transaction(context.engine) as connection:
        judged, ignored = _judge(connection, told, config)
        inserted = insert_uses(connection, judged, now, context.new_lease)
        uses = [use for group in inserted for use in group.uses]
        ignored["known"] += len(judged) - len(uses)
        add_stored_bytes(connection, update_stored_objects(connection, uses))
        deliveries = insert_use_deliveries(connection, inserted, now)
        append_use_leaves(connection, inserted)
    if deliveries:
        context.trigger_deliveries()
    return RecordedUses(inserted, +ignored)


def _judge(
    connection: Connection, reports: Sequence[UseReport], config: TenantConfig
) -> tuple[list[JudgedUse], Counter[str]]:
    nameless = [r for r in reports if r.event == "deleted" and r.grant_id is None]
    stored = grants_of_objects(connection, [(r.bucket, r.object_key) for r in nameless])
    ignored: Counter[str] = Counter()
    named: list[UseReport] = []
    for report in reports:
        if report.grant_id is not None:
            named.append(report)
        elif report.event != "deleted" or (report.bucket, report.object_key) not in stored:
            ignored["no_grant_id"] += 1
        elif stored[report.bucket, report.object_key].is_deleted_by(report):
            grant_id = stored[report.bucket, report.object_key].grant_id
            named.append(report._replace(grant_id=grant_id))
        else:
            ignored["other_object"] += 1
    grants = find_used_grants(connection, [r.grant_id for r in named if r.grant_id], config)
    judged: list[JudgedUse] = []
    for report in named:
        candidates = grants.get(report.grant_id or "", [])
        verdicts = [(grant, judge(report, grant)) for grant in candidates]
        fitting = [(g, v) for g, v in verdicts if not isinstance(v, str)]
        if len(fitting) == 1:
            judged.append(JudgedUse(report, *fitting[0]))
        elif fitting:
            ignored["ambiguous_grant"] += 1
        else:
            reasons = [verdict for _, verdict in verdicts if isinstance(verdict, str)]
            ignored[reasons[0] if reasons else "unknown_grant"] += 1
    return judged, ignored
