"""The metrics of the core that are read from the database: quotas, rejections, overdue releases."""

from collections.abc import Iterator
from datetime import datetime

from prometheus_client.core import Metric
from sqlalchemy import Connection, func, select

from models import RejectionCount
from worker.doctor.checks import EXPIRED_GRANTS
from worker.ledger.quota_usage import read_usage
from worker.ledger.tenant_rows import load_config
from worker.rules.quota_rules import window_start
from worker.shared.monitoring import Family, Window, age
from worker.shared.quota_statuses import quota_statuses

_QUOTA_LABELS = ("tenant", "metric", "window")
_USED = Family(
    "quota_used",
    "Usage in the current window of a quota, in grants or bytes. It counts without a quota too.",
    _QUOTA_LABELS,
)
_LIMIT = Family(
    "quota_limit", "Limit of a quota with its overrides, in grants or bytes.", _QUOTA_LABELS
)
_REJECTIONS = Family(
    "rejections",
    "Messages of the window that could not be authenticated or parsed, or were refused without a"
    " record (not_recorded). The tenant is that which they named, if it exists.",
    ("tenant", "code", "window"),
)


def read_releases(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    """Yield for how long expired grants still count as live."""
    yield EXPIRED_GRANTS.metric.single(age(EXPIRED_GRANTS.since(connection), now))


def read_quotas(connection: Connection, now: datetime, _window: Window) -> Iterator[Metric]:
    """Yield the usage and the limits of each tenant."""
    used: dict[tuple[str, ...], float] = {}
    limits: dict[tuple[str, ...], float] = {}
    for tenant in load_config(connection).tenants.values():
        usage = read_usage(connection, tenant.id, now)
        for status in quota_statuses(tenant, usage, now, include_unlimited=True):
            key = status.tenant, status.metric, status.window
            used[key] = status.used
            if status.limit is not None:
                limits[key] = status.limit
    yield _USED.samples(used)
    yield _LIMIT.samples(limits)


def read_rejections(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    """Yield the recent rejections."""
    counts = sum_rejections(connection, now - window.length)
    yield _REJECTIONS.samples({(*group, window.label): count for group, count in counts.items()})


def sum_rejections(connection: Connection, since: datetime) -> dict[tuple[str, str], int]:
    """Count the rejected messages since the hour of a time, by named tenant and code.

    The tenant is an empty text for messages that named none that exists.
    """
    columns = RejectionCount.tenant, RejectionCount.code
    query = select(*columns, func.sum(RejectionCount.count)).group_by(*columns)
    rows = connection.execute(query.where(RejectionCount.hour >= window_start("hour", since)))
    return {(tenant, code): int(count) for tenant, code, count in rows}
