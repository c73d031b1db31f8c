"""Quotas as arithmetic: what a batch costs, in which windows, and whether that still fits."""

from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, get_args

from valetkey.messages import Item
from valetkey.refusals import Code, Metric, QuotaState, Refusal, Window
from valetkey.terms import AnyTerms, Download, Multipart, Parts, Put
from worker.core.tenancy import Quota

WINDOWS: tuple[Window, ...] = get_args(Window)


class Period(NamedTuple):
    """One window of a metric, by the moment (UTC) it began."""

    metric: Metric
    window: Window
    start: datetime


def reserve(terms: AnyTerms, items: int) -> dict[Metric, int]:
    """Price that many items before they are known: each a grant, and its largest size in bytes.

    The URLs of a multipart upload's parts cost nothing, as the upload was paid for when it began.
    """
    match terms:
        case Download():
            return {"grants": items}
        case Parts():
            return {}
    return {"grants": items, "upload_bytes": items * terms.max_size}


def price(terms: AnyTerms, granted: Collection[Item]) -> dict[Metric, int]:
    """Price items that were granted: those that say their exact size cost that."""
    reserved = reserve(terms, len(granted))
    if isinstance(terms, Put | Multipart):
        reserved["upload_bytes"] = sum(item.size or 0 for item in granted)
    return reserved


def charges(cost: Mapping[Metric, int], at: datetime) -> dict[Period, int]:
    """Spread a cost over every window it counts in.

    Also over those that no quota limits today: a quota declared tomorrow finds what was used.
    """
    return {
        Period(metric, window, start(window, at)): amount
        for metric, amount in cost.items()
        for window in WINDOWS
    }


def start(window: Window, at: datetime) -> datetime:
    """When the window that holds this moment began, in UTC."""
    hour = at.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    if window == "hour":
        return hour
    day = hour.replace(hour=0)
    return day if window == "day" else day.replace(day=1)


def resets_at(window: Window, at: datetime) -> datetime:
    """When the window that holds this moment ends, in UTC."""
    longer_than_it = {"hour": timedelta(hours=1), "day": timedelta(days=1)}
    if window in longer_than_it:
        return start(window, at) + longer_than_it[window]
    return start("month", start("month", at) + timedelta(days=32))


def refused(
    quotas: Iterable[Quota], used: Mapping[Period, int], asked: Mapping[Period, int], at: datetime
) -> Refusal | None:
    """Refuse what would take any quota over its limit, naming the first such quota."""
    for quota in quotas:
        period = Period(quota.metric, quota.window, start(quota.window, at))
        if used.get(period, 0) + asked.get(period, 0) > quota.limit and asked.get(period):
            return _over(quota, used.get(period, 0), asked[period], at)
    return None


def _over(quota: Quota, used: int, asked: int, at: datetime) -> Refusal:
    name = f"{quota.metric} per {quota.window}"
    state = QuotaState(
        metric=quota.metric,
        window=quota.window,
        limit=quota.limit,
        used=used,
        asked=asked,
        resets_at=resets_at(quota.window, at),
    )
    message = f"the quota of {quota.limit} {name} has {max(quota.limit - used, 0)} left"
    return Refusal(
        code=Code.QUOTA_EXCEEDED, field="total", message=message, limit=quota.limit, quota=state
    )
