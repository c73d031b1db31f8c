"""The metrics of recent grants and refusals."""

from collections.abc import Iterator
from datetime import datetime

from prometheus_client.core import Metric
from sqlalchemy import Connection

from worker.audit.grant_filters import ISSUED, REFUSED, GrantFilter
from worker.audit.index_scans import batch_bounds
from worker.audit.item_counts import CountOptions, Dimension, ItemCount, count_items
from worker.shared.monitoring import Family, Window

_GRANTS = Family(
    "grants",
    "Grants that were issued in the window, by their state now.",
    ("tenant", "kind", "state", "window"),
)
_REFUSALS = Family(
    "refusals", "Items that were refused in the window.", ("tenant", "code", "window")
)


def read_grants(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    """Yield the recent grants by their state now."""
    counts = _count_recent(connection, now, window, ISSUED, ("tenant", "kind", "state"))
    yield _GRANTS.samples({group: count.issued for group, count in counts.items()})


def read_refusals(connection: Connection, now: datetime, window: Window) -> Iterator[Metric]:
    """Yield the recent refusals by their code."""
    counts = _count_recent(connection, now, window, REFUSED, ("tenant", "code"))
    yield _REFUSALS.samples({group: count.refused for group, count in counts.items()})


def _count_recent(
    connection: Connection, now: datetime, window: Window, decision: str, by: tuple[Dimension, ...]
) -> dict[tuple[str, ...], ItemCount]:
    """Count the items of a window, and add its label to each group."""
    recent = GrantFilter(since=now - window.length, decisions=(decision,), states_at=now)
    before, _ = batch_bounds(connection, recent)
    options = CountOptions(by, after_batch=before)
    counts = count_items(connection, recent, options)
    return {(*map(str, count.group), window.label): count for count in counts}
