"""Records the uses that reports name, and charges those that are learned of after a settlement."""

from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterable, Sequence
from datetime import datetime
from itertools import chain
from typing import NamedTuple

from sqlalchemy import Connection, func, select, tuple_

from models import Settlement, Use
from worker.audit.grant_states import STORING
from worker.base.database_engine import write_transaction
from worker.context import Context
from worker.ledger import quota_usage
from worker.rules.tenant_config import TenantConfig
from worker.shared.pages import in_parts, parse_items
from worker.uses.ended_slots import lock_unsettled
from worker.uses.stored_objects import (
    ChunkKey,
    add_stored_bytes,
    read_objects,
    update_stored_objects,
)
from worker.uses.upload_deliveries import insert_use_deliveries
from worker.uses.use_reports import UsedGrant, UseReport, is_credible
from worker.uses.use_rows import (
    InsertedUses,
    JudgedUse,
    append_use_leaves,
    find_used_grants,
    insert_uses,
    leave_out_excess,
    read_stored_sizes,
)
from worker.uses.use_rules import judge, kept_bytes, use_fingerprint
from worker.webhooks.decided_batches import DELIVER_TASK


class RecordedUses(NamedTuple):
    """The number of inserted uses, and why each other report is none.

    ignored counts by reason: malformed for a report that cannot be true, no_grant_id,
    unknown_grant, the reasons of `judge`, unknown_object for a deletion under an
    unknown key, other_object for one of another object than the newest known one of its key,
    too_many_uses beyond MAX_USES of a grant, and known for a use that was recorded before.
    """

    total: int
    ignored: Counter[str]


def record_uses(reports: Iterable[UseReport], context: Context) -> RecordedUses:
    """Record the uses in these reports, in one transaction.

    A report that comes again, from the same source or another one, changes nothing, so a caller
    that is killed repeats all of them. The deliveries for which the requests asked are
    inserted in the same transaction. Raises Transient.
    """
    config = context.config.current()
    with write_transaction(context.engine) as connection:
        now = context.now()  # after the wait for the lock: others compare it with their own times
        all_reports = list(reports)
        credible = [report for report in all_reports if is_credible(report, now)]
        ignored = Counter(malformed=len(all_reports) - len(credible))
        named = _name_deletions(connection, credible, ignored)
        judged = _judge(connection, named, config, ignored)
        # Before what else a settlement locks.
        unsettled = lock_unsettled(connection, {use.grant.chunk for use in judged})
        kept = leave_out_excess(connection, judged, ignored)
        priced = _price_late_uses(connection, kept, unsettled)
        inserted = insert_uses(connection, priced, now, context.new_lease)
        new = [use.report for group in inserted for use in group.uses]
        ignored["known"] += len(kept) - len(new)  # that another process has recorded meanwhile
        changes = update_stored_objects(connection, judged, frozenset(new), unsettled)
        _charge_uses(connection, inserted, changes, now)
        deliveries = insert_use_deliveries(connection, inserted, config, now)
        append_use_leaves(connection, inserted)
    if deliveries:
        context.trigger(DELIVER_TASK)
    return RecordedUses(len(new), +ignored)


def _charge_uses(
    connection: Connection, inserted: Sequence[InsertedUses], changes: Counter[str], now: datetime
) -> None:
    """Charge late uses and the change of stored bytes, by tenant, to avoid deadlocks."""
    late = {group.tenant: sum(use.charged_bytes or 0 for use in group.uses) for group in inserted}
    for tenant_id in sorted(late.keys() | changes.keys()):
        if late.get(tenant_id):
            quota_usage.charge_late(connection, tenant_id, late[tenant_id], now)
        add_stored_bytes(connection, {tenant_id: changes[tenant_id]})


def _name_deletions(
    connection: Connection, reports: Sequence[UseReport], ignored: Counter[str]
) -> list[UseReport]:
    """Return the reports that name a grant. A deletion gets the one that stored the object."""
    nameless = [r for r in reports if r.event == "deleted" and r.grant_id is None]
    stored = read_objects(connection, [(r.bucket, r.object_key) for r in nameless])
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

    Tenants choose the ids of their batches. Of two with one id, the later has copied it. A probe
    does not see whether an object was stored in parts, but the kind of its grant shows it.
    """
    reason = "unknown_grant"
    for grant in sorted(candidates, key=lambda grant: (grant.issued_at, grant.batch_number)):
        is_of_parts = report.source == "probe" and grant.kind == "multipart"
        fitted = report._replace(event="completed") if is_of_parts else report
        verdict = judge(fitted, grant)
        if not isinstance(verdict, str):
            return JudgedUse(fitted, grant, verdict, use_fingerprint(fitted, grant))
        reason = verdict
    return reason


def _price_late_uses(
    connection: Connection, uses: Sequence[JudgedUse], unsettled: Container[ChunkKey]
) -> list[JudgedUse]:
    """Return the uses with the bytes that each costs, None for one that costs nothing.

    A use costs what its object has more than what the settlement and earlier uses left charged. The
    last one that is recorded of a grant costs all that the grant may still store: of those after it
    nothing is known.
    """
    suspects = [use for use in uses if _may_cost(use) and use.grant.chunk not in unsettled]
    kept = _read_kept(connection, suspects)
    priced: list[JudgedUse] = []
    for use in uses:
        item, size = use.grant.item, None if use.is_last else use.report.size
        stored = kept_bytes(size, use.grant.reserved_bytes)
        if _may_cost(use) and stored > kept.get(item, stored):
            priced.append(use._replace(charged_bytes=stored - kept[item]))
            kept[item] = stored
        else:
            priced.append(use)
    return priced


def _may_cost(use: JudgedUse) -> bool:
    return use.grant.has_known_key and (use.report.event in STORING or use.is_last)


def _read_kept(connection: Connection, uses: Iterable[JudgedUse]) -> dict[tuple[int, int], int]:
    """Return the bytes that are still charged for the items of chunks that got some back.

    They are what the settlement left, and what late uses were charged since.
    """
    by_chunk: defaultdict[ChunkKey, dict[int, UsedGrant]] = defaultdict(dict)
    for use in uses:
        by_chunk[use.grant.chunk][use.grant.item_number] = use.grant
    key = Settlement.batch_number, Settlement.chunk_number
    query = select(*key, Settlement.unused, Settlement.settled_at)
    query = query.where(Settlement.returned_bytes > 0)
    kept: dict[tuple[int, int], int] = {}
    for part in in_parts(sorted(by_chunk)):
        for row in connection.execute(query.where(tuple_(*key).in_(part))).all():
            grants = by_chunk[row.batch_number, row.chunk_number]
            unused = frozenset(chain.from_iterable(parse_items(row.unused)))
            stored = read_stored_sizes(connection, row.batch_number, grants, row.settled_at)
            charged = _read_charged(connection, row.batch_number, grants)
            for number, grant in grants.items():
                size = stored.get(number, 0 if number in unused else None)
                kept[grant.item] = kept_bytes(size, grant.reserved_bytes) + charged[number]
    return kept


def _read_charged(
    connection: Connection, batch_number: int, items: Collection[int]
) -> Counter[int]:
    query = (
        select(Use.item_number, func.sum(Use.charged_bytes).label("size"))
        .where(Use.batch_number == batch_number, Use.charged_bytes.is_not(None))
        .where(Use.item_number.in_(items))
        .group_by(Use.item_number)
    )
    return Counter({row.item_number: int(row.size) for row in connection.execute(query)})
