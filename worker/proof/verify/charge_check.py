"""Compares the usage of tenants with what their grants and reservations cost."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from operator import index
from typing import Any

from models import Base
from worker.proof.verify.log_reader import LogReader
from worker.proof.verify.stored_rows import Found, Problem, read_instant, select_column
from worker.rules.grant_kinds import KINDS
from worker.rules.quota_rules import (
    CHARGED_METRICS,
    METRICS,
    NO_COST,
    SHORT_WINDOWS_KEPT,
    WINDOWS,
    Cost,
    window_start,
)

WindowKey = tuple[str, str, str]
"""The id of a tenant, a window, and the part of its start that names it, like 2026-11.

That of `live` is empty. A start that is none of the window is not cut.
"""
Windows = frozenset[WindowKey]

_LIVE_WINDOW = "live", ""
_SHORT = frozenset({"minute", "hour"})
_LENGTHS = {"minute": 16, "hour": 13, "day": 10, "month": 7}
_Columns = Mapping[str, str]
_CHARGED: _Columns = {metric: metric for metric in CHARGED_METRICS}

_MARGIN = timedelta(hours=2)
"""The length of an hour's window, and the difference between the clocks of two machines."""

_LIVE: Mapping[str, tuple[_Columns, str]] = {
    "reservations": (_CHARGED, "1 = 1"),
    "ended_slots": ({"upload_bytes": "reserved_bytes"}, "1 = 1"),
    "stored_objects": ({"stored_bytes": "size"}, "is_counted"),
}
"""Tables of what is charged in the window live: their columns by metric, and a condition."""

_CHANGES: Mapping[str, tuple[str, _Columns, str]] = {
    "reservations": ("reservations.charged_at", _CHARGED, "chunk_number = -1"),
    "uses": ("uses.recorded_at", {"upload_bytes": "charged_bytes"}, "charged_bytes IS NOT NULL"),
    "settlements": ("batches.decided_at", {"upload_bytes": "returned_bytes"}, "1 = 1"),
    "multipart_uploads": ("batches.decided_at", {"upload_bytes": "size"}, "state = 'closed'"),
}
"""Tables of costs beside those of issued items: their time, their columns by metric, a condition.

The first two were charged, for chunks that have not arrived and late, the others given back: bytes
of an upload that was closed perhaps.
"""


def batch_cost(kind: str, terms: Any, issued: int, sizes: int) -> Cost | None:
    """Return the cost of the issued items of a batch; sizes is the sum of those that they name.

    Returns None for a kind of a later release.
    """
    spec = KINDS.get(kind)
    if spec is None:
        return None
    if spec.is_charged_by_item or "max_size" not in spec.terms_class.model_fields:
        return spec.cost(issued, sizes)
    max_size = terms.get("max_size") if isinstance(terms, dict) else None
    return spec.cost(issued, issued * max_size) if isinstance(max_size, int) else None


@dataclass(slots=True)
class Charges:
    """The cost of grants by window, of windows whose usage is stored, or should be.

    The usage of short windows is deleted later: it is there for windows after kept_since. unknown
    are windows that contain grants whose cost is not known any more.
    """

    windows: Windows
    kept_since: datetime
    costs: dict[WindowKey, Cost] = field(default_factory=dict)
    unknown: set[WindowKey] = field(default_factory=set)

    def add(self, tenant: str, charged_at: datetime, cost: Cost | None) -> None:
        """Add the cost of a batch that was charged at the given time."""
        if cost == NO_COST:
            return
        moment, is_recent = charged_at.isoformat(" "), charged_at >= self.kept_since
        for window, length in _LENGTHS.items():
            key = (tenant, window, moment[:length])
            if not is_recent and window in _SHORT and key not in self.windows:
                continue
            if cost is None:
                self.unknown.add(key)
            else:
                self.costs[key] = self.costs.get(key, NO_COST).plus(cost)


@dataclass(frozen=True, slots=True)
class StoredUsage:
    """The usage of windows, and what follows from rows beside those of items, at one time.

    live is the usage of each tenant's window live, from the tables of _LIVE. changes has the costs
    of _CHANGES, by table. charges gets those of items.
    """

    usage: Mapping[WindowKey, Cost]
    live: Mapping[str, Cost]
    changes: Mapping[str, Charges]
    charges: Charges


def read_usage(reader: LogReader, now: datetime) -> StoredUsage:
    """Read the usage of the selected tenants. Raises Found for values that cannot be read."""
    columns = f'tenant, "window", {_time_column(reader, "usage.window_start")}'
    usage = {}
    with _readable("usage"):
        rows = reader.select(f"{columns}, {', '.join(METRICS)}", "usage", "tenant IN {}")
        for tenant, window, moment, *amounts in rows:
            start = read_instant("window_start", moment)
            is_start = window in WINDOWS and window_start(window, start) == start
            length = _LENGTHS.get(window, 0) if is_start else None  # else no charge finds the row
            key = _text(tenant), _text(window), start.isoformat(" ")[:length]
            usage[key] = Cost(*map(index, amounts))
    windows, kept_since = frozenset(usage), now - SHORT_WINDOWS_KEPT + _MARGIN
    changes = {table: Charges(windows, kept_since) for table in _CHANGES}
    for table, charges in changes.items():
        _read_changes(reader, charges, table)
    return StoredUsage(usage, _read_live(reader), changes, Charges(windows, kept_since))


def _time_column(reader: LogReader, name: str) -> str:
    table, _, column = name.partition(".")
    return select_column(reader.dialect, Base.metadata.tables[table].columns[column])


def _read_live(reader: LogReader) -> Mapping[str, Cost]:
    """Add up the rows of the tables of _LIVE by tenant."""
    live: dict[str, Cost] = {}
    for table, (columns, condition) in _LIVE.items():
        sums = ", ".join(f"sum({column})" for column in columns.values())
        rest = f"AND {condition} GROUP BY tenant"
        with _readable(table):
            for tenant, *totals in reader.select(f"tenant, {sums}", table, "tenant IN {}", rest):
                amounts = (int(total or 0) for total in totals)
                cost = Cost(**dict(zip(columns, amounts, strict=True)))
                live[_text(tenant)] = live.get(tenant, NO_COST).plus(cost)
    return live


def _read_changes(reader: LogReader, charges: Charges, table: str) -> None:
    """Add up the costs of a table of _CHANGES."""
    moment, columns, condition = _CHANGES[table]
    names = ", ".join(("batches.tenant", _time_column(reader, moment), *columns.values()))
    source = f"{table} JOIN batches ON batches.batch_number = {table}.batch_number"
    with _readable(table):
        rows = reader.select(names, source, "batches.tenant IN {}", f"AND {condition}")
        for tenant, charged_at, *amounts in rows:
            cost = Cost(**dict(zip(columns, map(index, amounts), strict=True)))
            charges.add(tenant, read_instant("charged_at", charged_at), cost)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


@contextmanager
def _readable(table: str) -> Iterator[None]:
    """Raise Found for a value of a table that cannot be read in the block."""
    try:
        yield
    except (TypeError, ValueError):
        raise Found(Problem(table, "has a value that the service does not write")) from None


def compare_usage(stored: StoredUsage) -> Iterator[Problem]:
    """Yield each usage that differs from what the rows cost: that of a missing window is 0.

    Bytes of an upload that ended may have been given back, or not.
    """
    charges = stored.charges
    keys = set(stored.usage).union(charges.costs, *(each.costs for each in stored.changes.values()))
    for key in sorted(keys):
        charged = stored.usage.get(key, NO_COST)
        tenant, window, start = key
        if key in charges.unknown:
            continue
        changes = {name: each.costs.get(key, NO_COST) for name, each in stored.changes.items()}
        if (window, start) == _LIVE_WINDOW:
            name, due, returned = window, stored.live.get(tenant, NO_COST), NO_COST
        else:
            name, returned = f"{window} {start}", changes["multipart_uploads"]
            due = charges.costs.get(key, NO_COST).plus(changes["reservations"])
            due = due.plus(changes["uses"]).minus(changes["settlements"])
        lowest = due.minus(returned)
        for metric, low, amount, high in zip(METRICS, lowest, charged, due, strict=True):
            if not low <= amount <= high:
                text = f"{amount:,} {metric} are charged, and the rows cost {high:,}"
                if metric == "stored_bytes":
                    text = f"{amount:,} {metric} are counted, and the known objects have {high:,}"
                yield Problem("usage", f"window {name}: {text}", tenant=tenant)
    charged_tenants = {tenant for tenant, *window in stored.usage if tuple(window) == _LIVE_WINDOW}
    for tenant, cost in sorted(stored.live.items()):
        if tenant not in charged_tenants and cost != NO_COST:
            text = "window live: has no row, though grants are live, or objects are known"
            yield Problem("usage", text, tenant=tenant)
