"""How a tenant's quotas stand, for who administers them."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import NamedTuple

from valetkey.wire.refusals import Metric, Window
from worker.core.quotas import cost
from worker.core.quotas.cost import METRICS, NO_COST, WINDOWS, UsageByWindow
from worker.core.tenants.config import Quota, QuotaOverride, Tenant

_BAR = 20  # columns
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_LENGTHS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))


class QuotaStatus(NamedTuple):
    """What is used in a window, and of what limit; without a quota there is none.

    limit has in it what the quota is raised by: raises are each how much, and until when.
    """

    tenant: str
    metric: Metric
    window: Window
    used: int
    resets_at: datetime | None
    limit: int | None = None
    left: int | None = None
    percent: int | None = None
    warn_at: int | None = None
    warns: bool = False
    raises: tuple[dict[str, int | str], ...] = ()


def quota_statuses(
    tenant: Tenant, used: UsageByWindow, now: datetime, *, every: bool
) -> Iterator[QuotaStatus]:
    """Each quota of a tenant; of every window also what is used where there is no quota."""
    limits = {(quota.metric, quota.window): quota for quota in cost.effective_quotas(tenant, now)}
    for metric in METRICS:
        for window in WINDOWS:
            charged = getattr(used.get(window, NO_COST), metric)
            quota = limits.get((metric, window))
            if quota is not None:
                yield _limited(tenant, quota, charged, now)
            elif every and charged:
                again = cost.resets_at(window, now)
                yield QuotaStatus(tenant.name, metric, window, charged, again)


def _limited(tenant: Tenant, quota: Quota, used: int, now: datetime) -> QuotaStatus:
    return QuotaStatus(
        tenant=tenant.name,
        metric=quota.metric,
        window=quota.window,
        used=used,
        limit=quota.limit,
        left=max(quota.limit - used, 0),
        percent=used * 100 // quota.limit,
        warn_at=quota.warn_at,
        warns=quota.warn_at is not None and used >= quota.warn_at,
        raises=tuple(override_values(one) for one in _current(tenant, quota, now)),
        resets_at=cost.resets_at(quota.window, now),
    )


def _current(tenant: Tenant, quota: Quota, now: datetime) -> Iterator[QuotaOverride]:
    for one in tenant.raises:
        if (one.metric, one.window) == (quota.metric, quota.window) and now < one.until:
            yield one


def override_values(one: QuotaOverride) -> dict[str, int | str]:
    """A raise as JSON values: how much, and until when."""
    return {"by": one.extra, "until": one.until.isoformat().replace("+00:00", "Z")}


def status_row(standing: QuotaStatus, now: datetime) -> tuple[str, ...]:
    """A standing in words: tenant, quota, used, limit, share, bar, when it resets, and notes."""
    return (
        standing.tenant,
        f"{standing.metric}.{standing.window}",
        format_amount(standing.metric, standing.used),
        "none" if standing.limit is None else format_amount(standing.metric, standing.limit),
        "" if standing.percent is None else f"{standing.percent}%",
        _bar(standing),
        "as grants lapse"
        if standing.resets_at is None
        else format_duration(standing.resets_at - now),
        "; ".join(_notes(standing)),
    )


def _bar(standing: QuotaStatus) -> str:
    """So much of the limit, with a mark where warnings begin; any use at all is seen."""
    if standing.limit is None:
        return ""
    full = min(-(-standing.used * _BAR // standing.limit), _BAR)
    if standing.left:
        full = min(full, _BAR - 1)
    cells = ["█"] * full + ["░"] * (_BAR - full)
    if standing.warn_at is not None:
        cells[min(standing.warn_at * _BAR // standing.limit, _BAR - 1)] = "│"
    return "".join(cells)


def _notes(standing: QuotaStatus) -> Iterator[str]:
    if standing.warn_at is not None:
        mark = "WARNS" if standing.warns else "warns"
        yield f"{mark} from {format_amount(standing.metric, standing.warn_at)}"
    for one in standing.raises:
        yield f"raised by {format_amount(standing.metric, int(one['by']))} until {one['until']}"


def format_amount(metric: Metric, number: int) -> str:
    """A number of grants, or of bytes in the largest unit that leaves a whole number before it."""
    if metric != "upload_bytes":
        return f"{number:,}"
    step = next((n for n in range(len(_UNITS) - 1, 0, -1) if number >= 1_024**n), 0)
    whole, rest = divmod(number, 1_024**step)
    return f"{whole if not rest else f'{number / 1_024**step:.1f}'}{_UNITS[step]}"


def format_duration(time: timedelta) -> str:
    """A length of time in its two largest units, like 11h 30m."""
    left, parts = max(int(time.total_seconds()), 0), []
    for unit, seconds in _LENGTHS:
        if left >= seconds:
            parts.append(f"{left // seconds}{unit}")
            left %= seconds
    return " ".join(parts[:2]) or "0s"
