"""Compares the usage of tenants with what their grants and reservations cost."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from operator import index
from typing import Any

from models.schema import Base
from worker.core.quota_rules import CHARGED_METRICS, NO_COST, Cost
from worker.proof.verify.log_reader import LogReader
from worker.proof.verify.stored_rows import Found, Problem, read_instant, select_column

WindowKey = tuple[str, str, str]
"""The id of a tenant, a window, and the part of its start that names it, like 2026-11."""
Windows = frozenset[WindowKey]

_LENGTHS = {"minute": 16, "hour": 13, "day": 10, "month": 7}
_METRICS = ", ".join(CHARGED_METRICS)

_CHANGES = {
    "reservations": ("reservations.charged_at", _METRICS, "chunk_number = -1"),
    "uses": ("uses.recorded_at", "charged_bytes", "charged_bytes IS NOT NULL"),
    "settlements": ("batches.decided_at", "returned_bytes", "1 = 1"),
    "multipart_uploads": ("batches.decided_at", "size", "state = 'closed'"),
}
"""Tables of costs beside those of issued items: their time, the column of bytes, or of each metric.

The first two were charged, for chunks that have not arrived and late, the others given back: bytes
of an upload that was closed perhaps.
"""


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
    """The usage of windows, what is reserved, and other changes of usage, at one moment.

    reserved are all reservations of a tenant, with the bytes of slots that are not settled. changes
    has the costs of _CHANGES, by table. stored are the bytes that each tenant is counted to have
    stored, objects those of its newest known objects of settled slots.
    """

    usage: Mapping[WindowKey, Cost]
    reserved: Mapping[str, Cost]
    changes: Mapping[str, Charges]
    stored: Mapping[str, int]
    objects: Mapping[str, int]


def read_usage(reader: LogReader) -> StoredUsage:
    """Read the usage of the selected tenants. Raises Found for values that cannot be read."""
    start = _time_column(reader, "usage.window_start")
    usage = {}
    with _readable("usage"):
        rows = reader.select(f'tenant, "window", {start}, {_METRICS}', "usage", "tenant IN {}")
        for tenant, window, moment, *amounts in rows:
            started = read_instant("window_start", moment).isoformat(" ")
            key = _text(tenant), _text(window), started[: _LENGTHS.get(window)]
            usage[key] = Cost(*map(index, amounts))
    reserved = {
        tenant: Cost(*amounts)
        for tenant, amounts in _sums(reader, "reservations", CHARGED_METRICS).items()
    }
    for tenant, (size,) in _sums(reader, "ended_slots", ["reserved_bytes"]).items():
        reserved[tenant] = reserved.get(tenant, NO_COST).plus(Cost(upload_bytes=size))
    windows = frozenset(usage)
    objects = _sums(reader, "stored_objects", ["size"], "AND is_counted")
    return StoredUsage(
        usage,
        reserved,
        {table: _read_charges(reader, windows, table) for table in _CHANGES},
        {tenant: size for tenant, (size,) in _sums(reader, "usage", ["stored_bytes"]).items()},
        {tenant: size for tenant, (size,) in objects.items()},
    )


def _time_column(reader: LogReader, name: str) -> str:
    table, _, column = name.partition(".")
    return select_column(reader.dialect, Base.metadata.tables[table].columns[column])


def _sums(
    reader: LogReader, table: str, columns: Sequence[str], condition: str = ""
) -> Mapping[str, list[int]]:
    """Add up columns of a table by tenant."""
    sums = ", ".join(f"sum({column})" for column in columns)
    rows = reader.select(f"tenant, {sums}", table, "tenant IN {}", f"{condition} GROUP BY tenant")
    with _readable(table):
        return {_text(tenant): [int(total or 0) for total in totals] for tenant, *totals in rows}


def _read_charges(reader: LogReader, windows: Windows, table: str) -> Charges:
    """Add up the costs of a table of _CHANGES."""
    moment, columns, condition = _CHANGES[table]
    charges = Charges(windows)
    rows = reader.select(
        f"batches.tenant, {_time_column(reader, moment)}, {columns}",
        f"{table} JOIN batches ON batches.batch_number = {table}.batch_number",
        "batches.tenant IN {}",
        f"AND {condition}",
    )
    with _readable(table):
        for tenant, charged_at, *amounts in rows:
            numbers = map(index, amounts)
            cost = Cost(*numbers) if columns == _METRICS else Cost(upload_bytes=next(numbers))
            charges.add(tenant, read_instant("charged_at", charged_at), cost)
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
        if key in charges.unknown:
            continue
        changes = {name: each.costs.get(key, NO_COST) for name, each in stored.changes.items()}
        if window == "live":
            due, returned = stored.reserved.get(tenant, NO_COST), NO_COST
        else:
            due = charges.costs.get(key, NO_COST).plus(changes["reservations"])
            due = due.plus(changes["uses"]).minus(changes["settlements"])
            returned = changes["multipart_uploads"]
        for metric, low, amount, high in zip(
            CHARGED_METRICS, due.minus(returned), charged, due, strict=False
        ):
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
