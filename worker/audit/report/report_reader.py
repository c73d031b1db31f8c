"""Reads all figures of an audit report."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, Select, func, select

from models import Batch, Chunk, Delivery
from worker.audit.grant_filters import ISSUED, GrantFilter, batch_conditions
from worker.audit.item_counts import (
    CountOptions,
    Dimension,
    ItemCount,
    count_items,
    describe_unit,
    seconds_per_unit,
    top_items,
)
from worker.audit.report.report_figures import (
    Breakdown,
    CheckpointState,
    LogState,
    PeriodUnit,
    ReportFigures,
    Scope,
    Tally,
)
from worker.core.quota_rules import QuotaStatus, quota_statuses
from worker.ledger import quota_usage
from worker.ledger.backlog import count_pending_webhooks
from worker.ledger.tenant_history import first_id, is_of_tenant, pruned_month
from worker.ledger.tenant_rows import load_config
from worker.proof.checkpoint_rows import read_tree_sizes


def count_lifetimes(
    connection: Connection, grant_filter: GrantFilter
) -> Sequence[Row[int, str, int]]:
    """Count issued grants by their lifetime in seconds and by the rule that limited it."""
    query = (
        _select_chunks(Chunk.expires_in, Chunk.limited_by, func.sum(Chunk.issued).label("issued"))
        .where(*batch_conditions(connection, grant_filter), Chunk.issued > 0)
        .group_by(Chunk.expires_in, Chunk.limited_by)
        .order_by(Chunk.expires_in, Chunk.limited_by)
    )
    return connection.execute(query).all()


def count_requesters(connection: Connection, grant_filter: GrantFilter) -> int:
    """Count the different requesters."""
    query = _select_chunks(func.count(Batch.requested_by.distinct()))
    return connection.scalar(query.where(*batch_conditions(connection, grant_filter))) or 0


def count_rows(connection: Connection, tenant: str | None) -> tuple[int, int]:
    """Count the audit rows and the batches of the whole log, or of a tenant."""
    rows = select(func.sum(Chunk.issued + Chunk.refused))
    batches = select(func.count()).select_from(Batch)
    if tenant is not None:
        condition = is_of_tenant(connection, Batch.tenant, tenant)
        rows = rows.join(Batch, Batch.batch_number == Chunk.batch_number).where(condition)
        batches = batches.where(condition)
    return int(connection.scalar(rows) or 0), connection.scalar(batches) or 0


def count_unsent_webhooks(connection: Connection, tenant: str | None) -> int:
    """Count the webhooks of all tenants, or of one, that are not sent yet."""
    if tenant is None:
        return sum(count_pending_webhooks(connection).values())
    is_of = is_of_tenant(connection, Delivery.tenant, tenant)
    query = select(func.count()).select_from(Delivery).where(Delivery.state == "pending", is_of)
    return connection.scalar(query) or 0


def _select_chunks(*columns: Any) -> Select[*tuple[Any, ...]]:
    return select(*columns).select_from(Chunk).join(Batch, Batch.batch_number == Chunk.batch_number)


MAX_YEARS = 20
_HOUR = 3_600
_LONGEST: tuple[tuple[PeriodUnit, timedelta], ...] = (
    ("hour", timedelta(days=3)),
    ("day", timedelta(days=93)),  # a quarter, and the hour that it can be longer
    ("month", timedelta(days=366 * MAX_YEARS)),
)


class UnusableRange(ValueError):
    """The range of a report is empty or too long."""


def choose_unit(since: datetime, until: datetime) -> PeriodUnit:
    """Return the unit in which a report shows a range. Raises UnusableRange."""
    if since >= until:
        raise UnusableRange(f"the range ends at {until:%F %T} UTC, before it begins")
    for unit, longest in _LONGEST:
        if until - since <= longest:
            return unit
    raise UnusableRange(f"the range is longer than {MAX_YEARS} years")


def period_names(scope: Scope) -> list[str]:
    """Return the names of all periods of a report's range, as `audit count` names them."""
    seconds = seconds_per_unit(scope.unit, scope.zone)
    first = int(scope.since.timestamp()) // seconds
    last = int((scope.until - timedelta(microseconds=1)).timestamp()) // seconds
    # An hour is the shortest period: no period is skipped by steps of an hour.
    units = [*range(first, last + 1, max(_HOUR // seconds, 1)), last]
    return list(dict.fromkeys(describe_unit(scope.unit, scope.zone, unit) for unit in units))


TABLE_ROWS = 50
_MAX_CODES = 1_000  # more than there are refusal codes
_GROUPED: tuple[Dimension, ...] = ("tenant", "bucket", "kind")
_LIFETIMES = {
    "up to 1 minute": 60,
    "1 to 5 minutes": 300,
    "5 to 15 minutes": 900,
    "15 minutes to 1 hour": 3_600,
    "1 to 6 hours": 21_600,
    "6 hours to 1 day": 86_400,
    "1 to 7 days": 604_800,
}
_LONGEST_LIFETIME = "over 7 days"


def read_report(
    connection: Connection, scope: Scope, grant_filter: GrantFilter, now: datetime
) -> ReportFigures:
    """Read the figures of a report. grant_filter has the range and the filters of its scope."""
    groups = count_items(connection, grant_filter, CountOptions(_GROUPED))
    lifetimes = count_lifetimes(connection, grant_filter)
    return ReportFigures(
        scope=scope,
        generated_at=now,
        periods=_read_periods(connection, scope, grant_filter),
        tenants=_sum_by(groups, "tenant"),
        buckets=_sum_by(groups, "bucket"),
        kinds=_sum_by(groups, "kind"),
        codes=_read_codes(connection, grant_filter),
        lifetimes=_group_lifetimes(lifetimes),
        limits=_break_down(_sum_limits(lifetimes)),
        requesters=replace(
            _read_largest(connection, grant_filter, "requester", groups),
            groups=count_requesters(connection, grant_filter),
        ),
        recipients=_read_largest(connection, grant_filter, "recipient", groups),
        keys=_read_largest(connection, grant_filter, "key", groups),
        states=_read_states(connection, grant_filter, now),
        quotas=tuple(_read_quotas(connection, scope.tenant, now)),
        log=_read_log_state(connection, scope.tenant),
        pruned_month=pruned_month(connection, scope.since),
    )


def _read_periods(
    connection: Connection, scope: Scope, grant_filter: GrantFilter
) -> tuple[Tally, ...]:
    options = CountOptions((scope.unit,), scope.zone)
    counts = count_items(connection, grant_filter, options)
    numbers = {count.group[0]: (count.issued, count.refused) for count in counts}
    return tuple(Tally(name, *numbers.get(name, (0, 0))) for name in period_names(scope))


def _sum_by(groups: Iterable[ItemCount], dimension: Dimension) -> Breakdown:
    index = _GROUPED.index(dimension)
    sums: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for count in groups:
        totals = sums[str(count.group[index])]
        totals[0] += count.issued
        totals[1] += count.refused
    return _break_down(Tally(name, *totals) for name, totals in sums.items())


def _break_down(tallies: Iterable[Tally]) -> Breakdown:
    """Return the largest tallies first, and the sum of those for which there is no row."""
    largest = sorted(tallies, key=lambda tally: (-tally.total, tally.name))
    rest = largest[TABLE_ROWS:]
    others = Tally("", sum(t.issued for t in rest), sum(t.refused for t in rest))
    return Breakdown(tuple(largest[:TABLE_ROWS]), others if rest else None, len(largest))


def _read_codes(connection: Connection, grant_filter: GrantFilter) -> Breakdown:
    counts = top_items(connection, grant_filter, "code", _MAX_CODES)
    return _break_down(_to_tally(count) for count in counts)


def _read_largest(
    connection: Connection,
    grant_filter: GrantFilter,
    dimension: Dimension,
    groups: Iterable[ItemCount],
) -> Breakdown:
    """Return the largest groups. Counting all different keys would read them once more."""
    # One more than there are rows, because items for no recipient are a group as well.
    counts = top_items(connection, grant_filter, dimension, TABLE_ROWS + 1)
    rows = tuple(_to_tally(count) for count in counts if count.group[0] is not None)[:TABLE_ROWS]
    others = _rest(groups, rows)
    return Breakdown(rows, others, None if others else len(rows))


def _rest(groups: Iterable[ItemCount], rows: Iterable[Tally]) -> Tally | None:
    """Return the number of items that are in no row, None if there are none."""
    issued = sum(count.issued for count in groups) - sum(row.issued for row in rows)
    refused = sum(count.refused for count in groups) - sum(row.refused for row in rows)
    return Tally("", issued, refused) if issued or refused else None


def _to_tally(count: ItemCount) -> Tally:
    return Tally(str(count.group[0]), count.issued, count.refused)


def _group_lifetimes(counts: Iterable[Row[int, str, int]]) -> Breakdown:
    """Return the lifetimes by range, shortest first, without empty ranges at both ends."""
    sums = dict.fromkeys((*_LIFETIMES, _LONGEST_LIFETIME), 0)
    for count in counts:
        ranges = (name for name, longest in _LIFETIMES.items() if count.expires_in <= longest)
        sums[next(ranges, _LONGEST_LIFETIME)] += count.issued
    names = list(sums)
    used = [number for number, name in enumerate(names) if sums[name]]
    shown = names[used[0] : used[-1] + 1] if used else []
    return Breakdown(tuple(Tally(name, sums[name], 0) for name in shown), None, len(shown))


def _sum_limits(counts: Iterable[Row[int, str, int]]) -> Iterable[Tally]:
    sums: Counter[str] = Counter()
    for count in counts:
        sums[count.limited_by] += count.issued
    return [Tally(name, number, 0) for name, number in sums.items()]


def _read_states(
    connection: Connection, grant_filter: GrantFilter, now: datetime
) -> Mapping[str, Mapping[str, int]]:
    of_grants = replace(grant_filter, decisions=(ISSUED,), states_at=now)
    counts = count_items(connection, of_grants, CountOptions(("kind", "state")))
    kinds: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for count in counts:
        kinds[str(count.group[0])][str(count.group[1])] = count.issued
    return kinds


def _read_quotas(
    connection: Connection, tenant_name: str | None, now: datetime
) -> Iterable[QuotaStatus]:
    id_ = None if tenant_name is None else first_id(tenant_name)
    for tenant in load_config(connection).tenants.values():
        if id_ is None or tenant_name == tenant.name or id_ == tenant.id:
            used = quota_usage.read_usage(connection, tenant.id, now)
            yield from quota_statuses(tenant, used, now, include_unlimited=False)


def _read_log_state(connection: Connection, tenant: str | None) -> LogState:
    rows, batches = count_rows(connection, tenant)
    trees = read_tree_sizes(connection, tenant)
    return LogState(
        rows=rows,
        batches=batches,
        trees=len(trees),
        leaves=sum(tree.size for tree in trees),
        unsigned_leaves=sum(tree.size - (tree.signed_size or 0) for tree in trees),
        pending_webhooks=count_unsent_webhooks(connection, tenant),
        checkpoints=tuple(
            CheckpointState(tree.tenant, tree.signed_size, tree.signed_at)
            for tree in trees
            if tree.signed_size is not None and tree.signed_at is not None
        ),
    )
