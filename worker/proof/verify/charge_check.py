"""Compares the usage of tenants with what their grants and reservations cost."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.core.quota_rules import CHARGED_METRICS, NO_COST, Cost
from worker.proof.verify.log_reader import (
    Found,
    LogReader,
    Problem,
    WrongValue,
    instant,
    number,
    problems_of,
    stream_rows,
    text,
    where_tenant,
)
from worker.proof.verify.log_rows import select_columns

WindowKey = tuple[str, str, str]
"""The id of a tenant, a window, and the part of its start that names it, like 2026-11."""
Windows = frozenset[WindowKey]

_LENGTHS = {"minute": 16, "hour": 13, "day": 10, "month": 7}

_CHANGES = {
    "multipart_uploads": ("decided_at", "size", "state = 'closed'"),  # may have been given back
    "settlements": ("decided_at", "returned_bytes", "1 = 1"),  # given back
    "uses": ("recorded_at", "charged_bytes", "charged_bytes IS NOT NULL"),  # charged late
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

    def add(self, tenant: str, charged_at: str, cost: Cost | None) -> None:
        """Add the cost of a batch that was charged at the given moment."""
        if not self.windows or cost == NO_COST:
            return
        for window, length in _LENGTHS.items():
            key = (tenant, window, charged_at[:length])
            if key not in self.windows:
                continue
            if cost is None:
                self.unknown.add(key)
            else:
                self.costs[key] = self.costs.get(key, NO_COST).plus(cost)

    def merge(self, other: "Charges") -> None:
        """Add what another process found."""
        self.unknown |= other.unknown
        for key, cost in other.costs.items():
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
    metrics = ", ".join(CHARGED_METRICS)
    start = select_columns(reader.dialect, {"window_start": instant})
    rows = reader.fetch(
        f'SELECT tenant, "window", {start}, {metrics} FROM usage WHERE {where}',  # noqa: S608 - no value
        *params,
    )
    usage = dict(_usage_row(row) for row in rows)
    windows = frozenset(usage)
    return StoredUsage(
        usage,
        _read_reserved(reader, tenants),
        _read_remaining(reader, windows, tenants),
        {table: _read_bytes(reader, windows, tenants, table) for table in _CHANGES},
        _sum_by_tenant(reader, "usage", "stored_bytes", tenants),
        _sum_by_tenant(reader, "stored_objects", "size", tenants, "is_counted"),
    )


def _read_reserved(reader: LogReader, tenants: tuple[str, ...]) -> Mapping[str, Cost]:
    where, params = where_tenant("tenant", tenants)
    sums = ", ".join(f"sum({metric})" for metric in CHARGED_METRICS)
    rows = reader.fetch(
        f"SELECT tenant, {sums} FROM reservations WHERE {where} GROUP BY tenant",  # noqa: S608
        *params,
    )
    with problems_of("reservations"):
        reserved = {text("tenant", tenant): Cost(*map(int, amounts)) for tenant, *amounts in rows}
    for tenant, size in _sum_by_tenant(reader, "ended_slots", "reserved_bytes", tenants).items():
        reserved[tenant] = reserved.get(tenant, NO_COST).plus(Cost(upload_bytes=size))
    return reserved


def _sum_by_tenant(
    reader: LogReader, table: str, column: str, tenants: tuple[str, ...], condition: str = "1 = 1"
) -> Mapping[str, int]:
    where, params = where_tenant("tenant", tenants)
    rows = reader.fetch(
        f"SELECT tenant, sum({column}) FROM {table} "  # noqa: S608 - no value
        f"WHERE {condition} AND {where} GROUP BY tenant",
        *params,
    )
    with problems_of(table):
        return {text("tenant", tenant): int(total or 0) for tenant, total in rows}


def _usage_row(row: Any) -> tuple[WindowKey, Cost]:
    tenant, window, start, *amounts = row
    with problems_of("usage", tenant=tenant):
        text("tenant", tenant)
        text("window", window)
        instant("window_start", start)
        for metric, amount in zip(CHARGED_METRICS, amounts, strict=True):
            number(metric, amount)
    return (tenant, window, start[: _LENGTHS.get(window)]), Cost(*map(int, amounts))


def _read_remaining(reader: LogReader, windows: Windows, tenants: tuple[str, ...]) -> Charges:
    where, params = where_tenant("tenant", tenants)
    charged_at = select_columns(reader.dialect, {"charged_at": instant})
    metrics = ", ".join(CHARGED_METRICS)
    charges = Charges(windows)
    rows = stream_rows(
        reader,
        f"SELECT tenant, {charged_at}, {metrics} FROM reservations "  # noqa: S608 - no value
        f"WHERE chunk_number = -1 AND {where}",
        *params,
    )
    with problems_of("reservations"):
        for tenant, moment, *amounts in rows:
            instant("charged_at", moment)
            charges.add(tenant, moment, Cost(*map(int, amounts)))
    return charges


def _read_bytes(
    reader: LogReader, windows: Windows, tenants: tuple[str, ...], table: str
) -> Charges:
    """Sum the bytes of a table of _CHANGES."""
    charged_at, column, condition = _CHANGES[table]
    where, params = where_tenant("batches.tenant", tenants)
    charged_at = select_columns(reader.dialect, {charged_at: instant})
    charges = Charges(windows)
    rows = stream_rows(
        reader,
        f"SELECT batches.tenant, {charged_at}, coalesce({column}, 0) FROM {table} "  # noqa: S608 - no value
        f"JOIN batches ON batches.batch_number = {table}.batch_number "
        f"WHERE {condition} AND {where}",
        *params,
    )
    with problems_of(table):
        for tenant, moment, size in rows:
            try:
                cost = Cost(upload_bytes=number(column, size))
            except WrongValue as error:
                raise Found(Problem.of_value(table, error, tenant=tenant)) from None
            instant("charged_at", moment)
            charges.add(tenant, moment, cost)
    return charges


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
                text = f"window {name}: {amount:,} are charged, and the rows cost {high:,}"
                yield Problem("usage", text, tenant=tenant, column=metric)
    for tenant in sorted(stored.stored.keys() | stored.objects.keys()):
        counted, found = stored.stored.get(tenant, 0), stored.objects.get(tenant, 0)
        if counted != found:
            text = f"window live: {counted:,} are counted, and the known objects have {found:,}"
            yield Problem("usage", text, tenant=tenant, column="stored_bytes")
    charged_tenants = {tenant for tenant, window, _ in stored.usage if window == "live"}
    for tenant, cost in sorted(stored.reserved.items()):
        if tenant not in charged_tenants and cost != NO_COST:
            yield Problem("usage", "window live: has no row, though grants are live", tenant=tenant)
