"""Compares the usage of tenants with what their grants and reservations cost."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from operator import index
from typing import Any

from models.schema import Base
from worker.core.quota_rules import CHARGED_METRICS, NO_COST, Cost
from worker.proof.verify.log_reader import LogReader, where_tenant
from worker.proof.verify.stored_rows import Found, Problem, read_instant, select_column

WindowKey = tuple[str, str, str]
"""The id of a tenant, a window, and the part of its start that names it, like 2026-11."""
Windows = frozenset[WindowKey]

_LENGTHS = {"minute": 16, "hour": 13, "day": 10, "month": 7}
_METRICS = ", ".join(CHARGED_METRICS)

_CHANGES = {
    "multipart_uploads": (
        "batches",
        "decided_at",
        "size",
        "state = 'closed'",
    ),  # may have been given back
    "settlements": ("batches", "decided_at", "returned_bytes", "1 = 1"),  # given back
    "uses": ("uses", "recorded_at", "charged_bytes", "charged_bytes IS NOT NULL"),  # charged late
}
"""Tables of bytes that were given back, or charged later: their time, their size, a condition."""


def batch_cost(kind: str, terms: Any, issued: int, sizes: int) -> Cost | None:
    """Return the cost of the issued items of a batch; sizes is the sum of those that they name.

    Returns None for a kind of a later release.
    """
    match kind:
        case "download":
            return Cost(grants=issued, download_grants=issued)
        case "upload":
            max_size = terms.get("max_size") if isinstance(terms, dict) else None
            if not isinstance(max_size, int):
                return None
            return Cost(grants=issued, upload_bytes=issued * max_size)
        case "put" | "multipart":
            return Cost(grants=issued, upload_bytes=sizes)
        case "parts":
            return NO_COST
        case _:
            return None


@dataclass(slots=True)
class Charges:
    """The cost of grants by window, of windows whose usage is stored.

    unknown are windows that contain grants whose cost is not known any more.
    """

    windows: Windows
    costs: dict[WindowKey, Cost] = field(default_factory=dict)
    unknown: set[WindowKey] = field(default_factory=set)

    def add(self, tenant: str, charged_at: datetime, cost: Cost | None) -> None:
        """Add the cost of a batch that was charged at the given moment."""
        if not self.windows or cost == NO_COST:
            return
        moment = charged_at.isoformat(" ")
        for window, length in _LENGTHS.items():
            key = (tenant, window, moment[:length])
            if key not in self.windows:
                continue
            if cost is None:
                self.unknown.add(key)
            else:
                self.costs[key] = self.costs.get(key, NO_COST).plus(cost)


@dataclass(frozen=True, slots=True)
class StoredUsage:
    """The usage of windows, what is reserved, and the uploads that have ended, at one moment.

    reserved are all reservations of a tenant, with the bytes of slots that are not settled;
    remaining are those for chunks that have not arrived. changes has the bytes of _CHANGES, by
    table. stored are the bytes that each tenant is counted to have stored, objects those of its
    newest known objects of settled slots.
    """

    usage: Mapping[WindowKey, Cost]
    reserved: Mapping[str, Cost]
    remaining: Charges
    changes: Mapping[str, Charges]
    stored: Mapping[str, int]
    objects: Mapping[str, int]


def read_usage(reader: LogReader, tenants: tuple[str, ...]) -> StoredUsage:
    """Read the usage of tenants, or of all. Raises Found for values that cannot be read."""
    where, params = where_tenant("tenant", tenants)
    start = _time_column(reader, "usage", "window_start")
    usage = {}
    statement = f'SELECT tenant, "window", {start}, {_METRICS} FROM usage WHERE {where}'  # noqa: S608 - no value
    with _readable("usage"):
        for tenant, window, moment, *amounts in reader.stream(statement, *params):
            started = read_instant("window_start", moment).isoformat(" ")
            key = _text(tenant), _text(window), started[: _LENGTHS.get(window)]
            usage[key] = Cost(*map(index, amounts))
    windows = frozenset(usage)
    return StoredUsage(
        usage,
        _read_reserved(reader, tenants),
        _sum_charges(
            reader,
            windows,
            "reservations",
            f"SELECT tenant, {_time_column(reader, 'reservations', 'charged_at')}, {_METRICS}"  # noqa: S608
            f" FROM reservations WHERE chunk_number = -1 AND {where}",
            params,
        ),
        {table: _read_bytes(reader, windows, tenants, table) for table in _CHANGES},
        _sum_by_tenant(reader, tenants, "usage", "stored_bytes"),
        _sum_by_tenant(reader, tenants, "stored_objects", "size", "is_counted"),
    )


def _time_column(reader: LogReader, table: str, column: str) -> str:
    return select_column(reader.dialect, Base.metadata.tables[table].columns[column])


def _read_reserved(reader: LogReader, tenants: tuple[str, ...]) -> Mapping[str, Cost]:
    where, params = where_tenant("tenant", tenants)
    sums = ", ".join(f"sum({metric})" for metric in CHARGED_METRICS)
    statement = f"SELECT tenant, {sums} FROM reservations WHERE {where} GROUP BY tenant"  # noqa: S608
    with _readable("reservations"):
        rows = reader.fetch(statement, *params)
        reserved = {_text(tenant): Cost(*map(int, amounts)) for tenant, *amounts in rows}
    for tenant, size in _sum_by_tenant(reader, tenants, "ended_slots", "reserved_bytes").items():
        reserved[tenant] = reserved.get(tenant, NO_COST).plus(Cost(upload_bytes=size))
    return reserved


def _sum_by_tenant(
    reader: LogReader, tenants: tuple[str, ...], table: str, column: str, condition: str = "1 = 1"
) -> Mapping[str, int]:
    where, params = where_tenant("tenant", tenants)
    statement = (
        f"SELECT tenant, sum({column}) FROM {table} "  # noqa: S608 - no value
        f"WHERE {condition} AND {where} GROUP BY tenant"
    )
    with _readable(table):
        return {
            _text(tenant): int(total or 0) for tenant, total in reader.fetch(statement, *params)
        }


def _read_bytes(
    reader: LogReader, windows: Windows, tenants: tuple[str, ...], table: str
) -> Charges:
    """Sum the bytes of a table of _CHANGES."""
    *charged_at, column, condition = _CHANGES[table]
    where, params = where_tenant("batches.tenant", tenants)
    amounts = ", ".join(column if metric == "upload_bytes" else "0" for metric in CHARGED_METRICS)
    statement = (
        f"SELECT batches.tenant, {_time_column(reader, *charged_at)}, {amounts} FROM {table} "  # noqa: S608 - no value
        f"JOIN batches ON batches.batch_number = {table}.batch_number WHERE {condition} AND {where}"
    )
    return _sum_charges(reader, windows, table, statement, params)


def _sum_charges(
    reader: LogReader, windows: Windows, table: str, statement: str, params: tuple[str, ...]
) -> Charges:
    """Sum the costs that a query of tenants, times and amounts by metric returns."""
    charges = Charges(windows)
    with _readable(table):
        for tenant, moment, *amounts in reader.stream(statement, *params):
            charges.add(tenant, read_instant("charged_at", moment), Cost(*map(index, amounts)))
    return charges


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


def compare_usage(stored: StoredUsage, charges: Charges) -> Iterator[Problem]:
    """Yield each stored usage that differs from what the rows cost.

    Bytes of an upload that ended may have been given back, or not.
    """
    for key, charged in sorted(stored.usage.items()):
        tenant, window, start = key
        if window == "live":
            due, returned = stored.reserved.get(tenant, NO_COST), 0
        elif key in charges.unknown:
            continue
        else:
            due = charges.costs.get(key, NO_COST).plus(stored.remaining.costs.get(key, NO_COST))
            due = due.plus(stored.changes["uses"].costs.get(key, NO_COST))
            due = due.minus(stored.changes["settlements"].costs.get(key, NO_COST))
            returned = stored.changes["multipart_uploads"].costs.get(key, NO_COST).upload_bytes
        lowest = due.minus(Cost(upload_bytes=returned))
        for metric, low, amount, high in zip(CHARGED_METRICS, lowest, charged, due, strict=False):
            if not low <= amount <= high:
                name = window if window == "live" else f"{window} {start}"
                text = f"window {name}: {amount:,} {metric} are charged, and the rows cost {high:,}"
                yield Problem("usage", text, tenant=tenant)
    for tenant in sorted(stored.stored.keys() | stored.objects.keys()):
        counted, found = stored.stored.get(tenant, 0), stored.objects.get(tenant, 0)
        if counted != found:
            text = (
                f"window live: {counted:,} stored_bytes are counted, and the known objects have"
                f" {found:,}"
            )
            yield Problem("usage", text, tenant=tenant)
    charged_tenants = {tenant for tenant, window, _ in stored.usage if window == "live"}
    for tenant, cost in sorted(stored.reserved.items()):
        if tenant not in charged_tenants and cost != NO_COST:
            yield Problem("usage", "window live: has no row, though grants are live", tenant=tenant)
