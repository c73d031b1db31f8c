"""The status of a tenant's quotas, and its text for operators."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from valetkey.units import describe_live_reset, format_amount, format_duration, format_utc
from valetkey.wire.refusals import Metric, Window
from worker.core.quotas import cost
from worker.core.quotas.cost import METRICS, WINDOWS, UsageByWindow
from worker.core.tenants.config import Quota, QuotaOverride, Tenant

_BAR_WIDTH = 20  # columns


class QuotaStatus(NamedTuple):
    """The usage of one metric in one window, and its limit if there is a quota.

    tenant is the tenant's id. limit includes the overrides that are in effect. raises are these
    overrides, each with its amount (by) and its end (until).
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
    tenant: Tenant, usage: UsageByWindow, now: datetime, *, include_unlimited: bool
) -> Iterator[QuotaStatus]:
    """Yield the status of each quota of a tenant.

    With include_unlimited, also yields usage of metrics in windows without a quota.
    """
    quotas = {(quota.metric, quota.window): quota for quota in cost.effective_quotas(tenant, now)}
    for metric in METRICS:
        for window in WINDOWS:
            used = cost.used_amount(usage, metric, window)
            quota = quotas.get((metric, window))
            if quota is not None:
                yield _limited_status(tenant, quota, used, now)
            elif include_unlimited and used:
                end = cost.resets_at(window, now)
                yield QuotaStatus(tenant.id, metric, window, used, end)


def _limited_status(tenant: Tenant, quota: Quota, used: int, now: datetime) -> QuotaStatus:
    return QuotaStatus(
        tenant=tenant.id,
        metric=quota.metric,
        window=quota.window,
        used=used,
        limit=quota.limit,
        left=max(quota.limit - used, 0),
        percent=used * 100 // quota.limit,
        warn_at=quota.warn_at,
        warns=quota.warn_at is not None and used >= quota.warn_at,
        raises=tuple(map(override_to_dict, cost.current_overrides(tenant, quota, now))),
        resets_at=cost.resets_at(quota.window, now),
    )


def override_to_dict(override: QuotaOverride) -> dict[str, int | str]:
    """Return a quota override as JSON values: its amount (by) and its end (until)."""
    return {"by": override.extra, "until": format_utc(override.expires_at)}


def status_row(status: QuotaStatus, now: datetime) -> tuple[str, ...]:
    """Format a status as text: tenant, quota, used, limit, share, bar, time to reset, notes."""
    return (
        status.tenant,
        f"{status.metric}.{status.window}",
        format_amount(status.metric, status.used),
        "none" if status.limit is None else format_amount(status.metric, status.limit),
        "" if status.percent is None else f"{status.percent}%",
        _format_bar(status),
        _format_reset(status, now),
        "; ".join(_notes(status)),
    )


def _format_reset(status: QuotaStatus, now: datetime) -> str:
    if status.resets_at is not None:
        return format_duration(status.resets_at - now)
    return describe_live_reset(status.metric)


def _format_bar(status: QuotaStatus) -> str:
    """Draw the used share of the limit, and a mark at which warnings begin.

    Any use fills at least one cell. Only a quota with nothing left fills all of them.
    """
    if status.limit is None:
        return ""
    full = min(-(-status.used * _BAR_WIDTH // status.limit), _BAR_WIDTH)
    if status.left:
        full = min(full, _BAR_WIDTH - 1)
    cells = ["█"] * full + ["░"] * (_BAR_WIDTH - full)
    if status.warn_at is not None:
        cells[min(status.warn_at * _BAR_WIDTH // status.limit, _BAR_WIDTH - 1)] = "│"
    return "".join(cells)


def _notes(status: QuotaStatus) -> Iterator[str]:
    if status.warn_at is not None:
        verb = "WARNS" if status.warns else "warns"
        yield f"{verb} from {format_amount(status.metric, status.warn_at)}"
    for override in status.raises:
        amount = format_amount(status.metric, int(override["by"]))
        yield f"raised by {amount} until {override['until']}"
