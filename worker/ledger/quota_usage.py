"""The usage of tenants. Call these functions in the transaction that writes the charged rows."""

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Connection,
    Select,
    String,
    and_,
    bindparam,
    case,
    delete,
    literal,
    or_,
    select,
    true,
    union_all,
    update,
)

from models import Usage
from valetkey.wire.refusals import QuotaState, Window
from worker.base.database_engine import DriverStatement
from worker.base.inserts import insert_statement
from worker.rules.quota_rules import (
    CHARGED_METRICS,
    LIVE_WINDOWS,
    METRICS,
    NO_COST,
    SHORT_WINDOWS_KEPT,
    UNCHARGED_WINDOW,
    WINDOWS,
    Cost,
    UsageByWindow,
    effective_quotas,
    quota_states,
    window_start,
)
from worker.rules.tenant_config import Tenant

UsageKey = tuple[str, Window, datetime]
"""The id of a tenant, a window, and the start of that window."""

# Statements are built once: building one takes longer than running it.
_COSTS = tuple(getattr(Usage, metric) for metric in METRICS)
_CHARGED = tuple(getattr(Usage, metric) for metric in CHARGED_METRICS)
_SELECT = DriverStatement(
    select(Usage.window, *_COSTS).where(
        Usage.tenant == bindparam("tenant_id"),
        or_(
            *(and_(Usage.window == name, Usage.window_start == bindparam(name)) for name in WINDOWS)
        ),
    )
)
_UPDATE_WINDOW = (
    update(Usage)
    .where(Usage.tenant == bindparam("tenant_id"))
    .where(Usage.window == bindparam("window_name"), Usage.window_start == bindparam("since"))
)
_RELEASE = _UPDATE_WINDOW.values({cost: cost - bindparam(f"minus_{cost.key}") for cost in _CHARGED})
_BYTES_LEFT = Usage.upload_bytes - bindparam("minus")
_GIVE_BACK = _UPDATE_WINDOW.values(
    upload_bytes=case((Usage.upload_bytes > bindparam("minus"), _BYTES_LEFT), else_=0)
)

MAX_UNCHARGED_BYTES = 64 * 2**20
"""The most that a tenant records in a day (UTC) without a charge, and a message for each worker.

About 160,000 items that are refused one by one, or 330,000 of batches that are refused as a whole:
a nightly job with a wrong prefix is recorded to its last item. A flood costs 2 GB in a month.
"""


def read_usage(connection: Connection, tenant_id: str, now: datetime) -> UsageByWindow:
    """Return a tenant's usage in the windows that contain the given time."""
    return _by_window(_SELECT.run(connection, _window_starts(tenant_id, now)))


def read_quota_states(connection: Connection, tenant: Tenant, now: datetime) -> list[QuotaState]:
    """Return the limit, usage and reset time of each of a tenant's quotas."""
    quotas = effective_quotas(tenant, now)
    return quota_states(quotas, read_usage(connection, tenant.id, now), now) if quotas else []


def charge(connection: Connection, tenant_id: str, cost: Cost, now: datetime) -> UsageByWindow:
    """Add a cost to a tenant's usage in every window, unchecked, and return the usage before it.

    Windows without a quota are charged too, so that a quota added later counts earlier usage. Other
    transactions that charge the tenant wait until this one ends. The returned usage is therefore
    valid until then, and a cost that turns out to be too large can be released again.
    """
    if cost == NO_COST:
        return read_usage(connection, tenant_id, now)
    amounts = {f"plus_{metric}": getattr(cost, metric) for metric in CHARGED_METRICS}
    statement = _charge_statement(connection.dialect.name)
    rows = statement.run(connection, _window_starts(tenant_id, now) | amounts)
    return {window: usage.minus(cost) for window, usage in _by_window(rows).items()}


def _window_starts(tenant_id: str, now: datetime) -> dict[str, Any]:
    return {"tenant_id": tenant_id, **{window: window_start(window, now) for window in WINDOWS}}


def _by_window(rows: Iterable[Any]) -> dict[Window, Cost]:
    return {
        row.window: Cost(**{metric: getattr(row, metric) for metric in METRICS}) for row in rows
    }


@cache
def _charge_statement(dialect: str) -> DriverStatement:
    rows = union_all(*(_charge_row(window) for window in WINDOWS))
    columns = ("tenant", "window", "window_start", *CHARGED_METRICS)
    statement = insert_statement(Usage, dialect).from_select(columns, rows)
    return DriverStatement(
        statement.on_conflict_do_update(
            index_elements=("tenant", "window", "window_start"),
            set_={cost.key: cost + statement.excluded[cost.key] for cost in _CHARGED},
        ).returning(Usage.window, *_COSTS)
    )


def _charge_row(window: Window) -> Select[Any]:
    start = bindparam(window, type_=Usage.window_start.type)
    amounts = (bindparam(f"plus_{metric}", type_=BigInteger) for metric in CHARGED_METRICS)
    # Without a WHERE clause, SQLite would read the ON of ON CONFLICT as that of a join.
    id_ = bindparam("tenant_id", type_=String)
    return select(id_, literal(window), start, *amounts).where(true())


def release(connection: Connection, tenant_id: str, cost: Cost, charged_at: datetime) -> None:
    """Subtract a cost from the windows in which it was charged."""
    if cost != NO_COST:
        costs = {(tenant_id, window, window_start(window, charged_at)): cost for window in WINDOWS}
        release_by_window(connection, costs)


def release_by_window(connection: Connection, costs: Mapping[UsageKey, Cost]) -> None:
    """Subtract a cost from each given window; windows deleted meanwhile are skipped.

    Rows are updated in the order in which `charge` locks them, to avoid deadlocks.
    """
    rows = [
        {"tenant_id": tenant_id, "window_name": window, "since": start}
        | {f"minus_{metric}": getattr(cost, metric) for metric in CHARGED_METRICS}
        for (tenant_id, window, start), cost in sorted(costs.items(), key=_lock_order)
        if cost != NO_COST
    ]
    if rows:
        connection.execute(_RELEASE, rows)


class SettledBytes(NamedTuple):
    """The upload bytes of a chunk that ended: all leave the window live, some the others, too."""

    tenant_id: str
    charged_at: datetime
    reserved: int
    returned: int


def give_back_bytes(connection: Connection, settled: Iterable[SettledBytes]) -> None:
    """Subtract upload bytes from the windows of their charge.

    Usage does not become negative, which would fail the transaction.
    """
    sums: Counter[UsageKey] = Counter()
    for tenant_id, charged_at, reserved, returned in settled:
        for window in WINDOWS:
            size = reserved if window in LIVE_WINDOWS else returned
            sums[tenant_id, window, window_start(window, charged_at)] += size
    rows = [
        {"tenant_id": tenant_id, "window_name": window, "since": start, "minus": size}
        for (tenant_id, window, start), size in sorted(sums.items(), key=_lock_order)
        if size
    ]
    if rows:
        connection.execute(_GIVE_BACK, rows)


def charge_late(connection: Connection, tenant_id: str, size: int, now: datetime) -> None:
    """Charge upload bytes of slots that are settled, whatever the limits: they are stored."""
    charge(connection, tenant_id, Cost(upload_bytes=size), now)
    key = (tenant_id, LIVE_WINDOWS[0], window_start(LIVE_WINDOWS[0], now))
    release_by_window(connection, {key: Cost(upload_bytes=size)})


def _lock_order(charged: tuple[UsageKey, object]) -> tuple[str, int, datetime]:
    tenant_id, window, start = charged[0]
    return tenant_id, WINDOWS.index(window), start


def delete_short_windows(connection: Connection, now: datetime) -> None:
    """Delete the usage of minutes and hours, and of records, that began over two days ago."""
    is_old = Usage.window_start < now - SHORT_WINDOWS_KEPT
    is_short = Usage.window.in_(("minute", "hour", UNCHARGED_WINDOW))
    connection.execute(delete(Usage).where(is_short, is_old))


def charge_uncharged(connection: Connection, tenant_id: str, size: int, now: datetime) -> None:
    """Count bytes that are recorded without a charge, after all else that locks usage."""
    if size:
        values = {"tenant": tenant_id, "window": UNCHARGED_WINDOW, "uncharged_bytes": size}
        values |= dict.fromkeys(CHARGED_METRICS, 0) | {"window_start": window_start("day", now)}
        insert = insert_statement(Usage, connection.dialect.name).values(values)
        after = Usage.uncharged_bytes + insert.excluded.uncharged_bytes
        counted = insert.on_conflict_do_update(
            index_elements=("tenant", "window", "window_start"), set_={"uncharged_bytes": after}
        )
        connection.execute(counted)


def is_beyond_ceiling(connection: Connection, tenant_id: str, now: datetime) -> bool:
    """Return true if a tenant may record nothing more today without a charge.

    Ask before rows are inserted: those of a transaction that fails take space on PostgreSQL.
    """
    query = select(Usage.uncharged_bytes).where(
        Usage.tenant == tenant_id,
        Usage.window == UNCHARGED_WINDOW,
        Usage.window_start == window_start("day", now),
    )
    return (connection.scalar(query) or 0) >= MAX_UNCHARGED_BYTES
