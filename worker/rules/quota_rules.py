"""Costs, windows and quotas: the quotas in effect, the admission of a cost, and their status."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, assert_never, get_args

from valetkey.units import describe_amount
from valetkey.wire.refusals import Code, Metric, QuotaState, Refusal, Window
from worker.rules.issued_grants import MAX_OPEN_TIME
from worker.rules.tenant_config import Quota, QuotaOverride, Tenant

WINDOWS: tuple[Window, ...] = get_args(Window)
METRICS: tuple[Metric, ...] = get_args(Metric)
CHARGED_METRICS = tuple(metric for metric in METRICS if metric != "stored_bytes")
"""The metrics that issued grants cost. Storage reports the bytes that are stored."""

LIVE_WINDOWS: tuple[Window, ...] = ("live",)
PAST_WINDOWS = tuple(window for window in WINDOWS if window not in LIVE_WINDOWS)
LIVE_START = datetime(1970, 1, 1, tzinfo=UTC)
"""The start of the window live, which has no end."""

SHORT_WINDOWS_KEPT = timedelta(days=2)
"""The time for which the usage of minutes and hours is kept.

Longer than a batch is open: then its rest is released.
"""

UNCHARGED_WINDOW = "records"
"""The name of a row of usage of its own, because it is locked after those of the others."""

CEILINGS = tuple(Quota("upload_bytes", window, 2**62) for window in ("month", "live"))
"""Quotas of every tenant, whatever its config says: beyond them a 63-bit counter would overflow.

The largest batch adds less than half of that, and each shorter window is part of a month.
"""


class Cost(NamedTuple):
    """The cost of grants, by metric: numbers of grants, and bytes that may be uploaded.

    As a usage, also the bytes that are stored, which are in the window live alone. No grant costs
    them: see `used_amount`.
    """

    grants: int = 0
    download_grants: int = 0
    upload_bytes: int = 0
    stored_bytes: int = 0

    def plus(self, other: "Cost") -> "Cost":
        """Return the sum of two costs."""
        return Cost(*(left + right for left, right in zip(self, other, strict=True)))

    def minus(self, other: "Cost") -> "Cost":
        """Return the difference of two costs."""
        return Cost(*(left - right for left, right in zip(self, other, strict=True)))

    def requested(self, metric: Metric) -> int:
        """Return what a request of this cost would add to the usage of a metric."""
        return self.upload_bytes if metric == "stored_bytes" else int(getattr(self, metric))


NO_COST = Cost()

UsageByWindow = Mapping[Window, Cost]
"""The usage in the windows that contain one time; a window without usage may be missing."""


def used_amount(usage: UsageByWindow, metric: Metric, window: Window) -> int:
    """Return the usage of a metric in a window.

    What unsettled upload slots may store counts as stored.
    """
    cost = usage.get(window, NO_COST)
    is_stored = (metric, window) == ("stored_bytes", "live")
    return cost.stored_bytes + cost.upload_bytes if is_stored else int(getattr(cost, metric))


def add_to_usage(usage: UsageByWindow, cost: Cost) -> UsageByWindow:
    """Return the usage after a cost was charged in every window."""
    return {window: usage.get(window, NO_COST).plus(cost) for window in WINDOWS}


def window_start(window: Window, now: datetime) -> datetime:
    """Return the start, in UTC, of the window that contains a time; live starts at the epoch."""
    minute = now.astimezone(UTC).replace(second=0, microsecond=0)
    match window:
        case "live":
            return LIVE_START
        case "minute":
            return minute
        case "hour":
            return minute.replace(minute=0)
        case "day":
            return minute.replace(minute=0, hour=0)
        case "month":
            return minute.replace(minute=0, hour=0, day=1)
        case _:
            assert_never(window)


_LENGTHS: Mapping[Window, timedelta] = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}


def resets_at(window: Window, now: datetime) -> datetime | None:
    """Return the end, in UTC, of the window that contains a time; live has no end."""
    match window:
        case "live":
            return None
        case "month":
            return window_start("month", window_start("month", now) + timedelta(days=32))
        case _:
            return window_start(window, now) + _LENGTHS[window]


def batch_open_time(tenant: Tenant) -> timedelta:
    """Return the time for which a new batch of the tenant accepts further chunks.

    It is the length of the shortest window for which the tenant has a quota, and a day at most. A
    batch is charged in the windows in which it begins. So the grants of a window belong to batches
    that began in it or in the one before it: they are at most twice the limit. If a batch stayed
    open for longer, a tenant could save up the limits of many short windows, and use them in one.
    """
    lengths = (_LENGTHS.get(quota.window, MAX_OPEN_TIME) for quota in tenant.quotas)
    return min(lengths, default=MAX_OPEN_TIME)


def effective_quotas(tenant: Tenant, now: datetime) -> tuple[Quota, ...]:
    """Return the tenant's quotas, increased by the overrides that are in effect."""
    return tuple(_effective_quota(tenant, quota, now) for quota in tenant.quotas)


def _effective_quota(tenant: Tenant, quota: Quota, now: datetime) -> Quota:
    extra = sum(override.extra for override in current_overrides(tenant, quota, now))
    return replace(quota, limit=quota.limit + extra) if extra else quota


def current_overrides(tenant: Tenant, quota: Quota, now: datetime) -> Iterator[QuotaOverride]:
    """Yield the overrides of a quota that are in effect."""
    for override in tenant.quota_overrides:
        is_of_quota = (override.metric, override.window) == (quota.metric, quota.window)
        if is_of_quota and now < override.expires_at:
            yield override


def quota_states(quotas: Iterable[Quota], usage: UsageByWindow, now: datetime) -> list[QuotaState]:
    """Return limit, usage and reset time of each quota."""
    return [quota_state(quota, usage, now) for quota in quotas]


def quota_state(quota: Quota, usage: UsageByWindow, now: datetime) -> QuotaState:
    """Return limit, usage and reset time of a quota."""
    return QuotaState(
        metric=quota.metric,
        window=quota.window,
        limit=quota.limit,
        used=used_amount(usage, quota.metric, quota.window),
        warn_at=quota.warn_at,
        resets_at=resets_at(quota.window, now),
    )


class QuotaAdmission(NamedTuple):
    """The decision on a cost: a refusal or None, and the tenant's quotas and usage after it."""

    refusal: Refusal | None
    quotas: list[QuotaState]
    usage: UsageByWindow


def admit_cost(tenant: Tenant, usage: UsageByWindow, cost: Cost, now: datetime) -> QuotaAdmission:
    """Admit a cost in all of a tenant's quotas, or refuse it for the first quota that it exceeds.

    usage is what is charged already, without this cost.
    """
    limits = effective_quotas(tenant, now)
    refusal = first_quota_refusal((*limits, *CEILINGS), usage, cost, now)
    usage_after = usage if refusal is not None else add_to_usage(usage, cost)
    return QuotaAdmission(refusal, quota_states(limits, usage_after, now), usage_after)


def first_quota_refusal(
    quotas: Iterable[Quota], usage: UsageByWindow, cost: Cost, now: datetime
) -> Refusal | None:
    """Return the refusal of a cost by the first quota that it exceeds, None if it fits into all."""
    for quota in quotas:
        amount = cost.requested(quota.metric)
        used = used_amount(usage, quota.metric, quota.window)
        if amount > 0 and used + amount > quota.limit:
            state = quota_state(quota, usage, now)
            return _quota_refusal(state.model_copy(update={"asked": amount}))
    return None


def _quota_refusal(state: QuotaState) -> Refusal:
    limit, left = (describe_amount(state.metric, number) for number in (state.limit, state.left))
    message = f"the quota {state.metric}.{state.window} of {limit} has {left} left"
    return Refusal(
        code=Code.QUOTA_EXCEEDED, field="total", message=message, limit=state.limit, quota=state
    )
