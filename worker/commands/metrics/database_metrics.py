"""The metrics that are read from the database, in parts with a transaction each."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from prometheus_client.core import Metric
from sqlalchemy import Connection

from worker.commands.metrics.families import Family, age
from worker.core.quotas.status import quota_statuses
from worker.core.revocation.bucket_policy import MAX_POLICY_BYTES
from worker.db.audit import backlog
from worker.db.audit.counting.columns import CountOptions, Dimension
from worker.db.audit.counting.counts import ItemCount, count_items
from worker.db.audit.filters import ISSUED, REFUSED, GrantFilter
from worker.db.audit.rejections import count_rejections
from worker.db.audit.selection.batch_range import batch_bounds
from worker.db.revocation.rows import read_denials
from worker.db.tenants import load_config
from worker.db.tree.checkpoints import read_tree_sizes
from worker.db.usage import read_usage
from worker.db.uses.recent_counts import count_recent_uses

_PENDING = Family("webhooks_pending", "Webhooks that are not sent yet.", ("tenant", "endpoint"))
_DUE = Family(
    "webhook_oldest_due_age_seconds",
    "Time since the longest-waiting webhook should have been attempted, 0 if none is due.",
)
_UNSETTLED = Family(
    "unsettled_chunks",
    "Chunks of upload slots that ended and are not settled, by bucket profile.",
    ("bucket",),
)
_UNSETTLED_AGE = Family(
    "unsettled_oldest_age_seconds",
    "Time for which ended upload slots wait to be settled or looked at again, 0 if none do.",
)
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
_RELEASE = Family(
    "release_overdue_seconds",
    "Time since the end of the oldest grants that still count as live, 0 if none do.",
)
_QUOTA_LABELS = ("tenant", "metric", "window")
_USED = Family(
    "quota_used",
    "Usage in the current window of a quota, in grants or bytes. It counts without a quota too.",
    _QUOTA_LABELS,
)
_LIMIT = Family(
    "quota_limit", "Limit of a quota with its overrides, in grants or bytes.", _QUOTA_LABELS
)
_LEAVES = Family("tree_leaves", "Leaves of the Merkle tree of a tenant's audit log.", ("tenant",))
_SIGNED = Family(
    "checkpoint_leaves", "Leaves that the newest signed checkpoint covers.", ("tenant",)
)
_SIGNED_AGE = Family(
    "checkpoint_age_seconds", "Time since the newest checkpoint was signed.", ("tenant",)
)
_REJECTIONS = Family(
    "rejections",
    "Messages of the window that could not be authenticated or parsed, or were refused without a"
    " record (not_recorded). The tenant is that which they named, if it exists.",
    ("tenant", "code", "window"),
)
_GRANTS = Family(
    "grants",
    "Grants that were issued in the window, by their state now.",
    ("tenant", "kind", "state", "window"),
)
_REFUSALS = Family(
    "refusals", "Items that were refused in the window.", ("tenant", "code", "window")
)
_USES = Family(
    "uses",
    "Recorded uses of the grants whose batch was decided in the window.",
    ("tenant", "event", "source", "verdict", "window"),
)


class Window(NamedTuple):
    """The time before now in which recent rows are counted, and the text that names it."""

    label: str
    length: timedelta


Part = Callable[[Connection, datetime, Window], Iterator[Metric]]


def _read_backlog(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    yield _PENDING.gauge(backlog.count_pending_webhooks(connection))
    yield _DUE.single(age(backlog.earliest_due_webhook(connection), now))
    yield _UNSETTLED.gauge(backlog.count_ended_slots(connection))
    yield _UNSETTLED_AGE.single(age(backlog.oldest_ended_slot(connection), now))
    yield _RELEASE.single(age(backlog.earliest_reservation_expiry(connection), now))


def _read_denials(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    denials, _ = read_denials(connection, now)
    missing = Counter(each.bucket for each in denials if each.policy_bytes is None)
    yield _MISSING.gauge({each.bucket: missing[each.bucket] for each in denials})
    yield _POLICY_LEFT.gauge(
        {each.bucket: MAX_POLICY_BYTES - each.policy_bytes for each in denials if each.policy_bytes}
    )


def _read_quotas(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    used: dict[tuple[str, ...], float] = {}
    limits: dict[tuple[str, ...], float] = {}
    for tenant in load_config(connection).tenants.values():
        usage = read_usage(connection, tenant.id, now)
        for status in quota_statuses(tenant, usage, now, include_unlimited=True):
            key = status.tenant, status.metric, status.window
            used[key] = status.used
            if status.limit is not None:
                limits[key] = status.limit
    yield _USED.gauge(used)
    yield _LIMIT.gauge(limits)


def _read_trees(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    trees = read_tree_sizes(connection, None)
    yield _LEAVES.gauge({tree.tenant: tree.size for tree in trees})
    yield _SIGNED.gauge({tree.tenant: tree.signed_size or 0 for tree in trees})
    yield _SIGNED_AGE.gauge(
        {tree.tenant: age(tree.signed_at, now) for tree in trees if tree.signed_at is not None}
    )


def _read_rejections(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    counts = count_rejections(connection, now - window.length)
    yield _REJECTIONS.gauge({(*group, window.label): count for group, count in counts.items()})


def _read_grants(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    counts = _count_recent(connection, now, window, ISSUED, ("tenant", "kind", "state"))
    yield _GRANTS.gauge({group: count.issued for group, count in counts.items()})


def _read_refusals(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    counts = _count_recent(connection, now, window, REFUSED, ("tenant", "code"))
    yield _REFUSALS.gauge({group: count.refused for group, count in counts.items()})


def _count_recent(
    connection: Connection,
    now: datetime,
    window: Window,
    decision: str,
    by: tuple[Dimension, ...],
) -> dict[tuple[str, ...], ItemCount]:
    """Count the items of a window, of which the label is added to each group."""
    recent = GrantFilter(since=now - window.length, decisions=(decision,))
    before, _ = batch_bounds(connection, recent)
    options = CountOptions(by, now=now, after_batch=before)
    counts = count_items(connection, recent, options)
    return {(*map(str, count.group), window.label): count for count in counts}


def _read_uses(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    counts = count_recent_uses(connection, now - window.length)
    yield _USES.gauge({(*group, window.label): count for group, count in counts.items()})


PARTS: Mapping[str, Part] = {
    "backlog": _read_backlog,
    "denials": _read_denials,
    "trees": _read_trees,
    "quotas": _read_quotas,
    "rejections": _read_rejections,
    "refusals": _read_refusals,
    "uses": _read_uses,
    "grants": _read_grants,
}
"""The parts, the cheapest first: all of them share a limit of time."""
