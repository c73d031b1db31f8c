"""Quotas as arithmetic: what a batch costs, in which windows, and whether that still fits."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, get_args

from valetkey.wire.messages import Item
from valetkey.wire.refusals import Code, Metric, QuotaState, Refusal, Window
from valetkey.wire.terms import AnyTerms, Download, Multipart, Parts, Put
from worker.core.tenants.config import Quota, Tenant

WINDOWS: tuple[Window, ...] = get_args(Window)
METRICS: tuple[Metric, ...] = get_args(Metric)
LIVE_WINDOWS: tuple[Window, ...] = ("live",)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

CEILINGS = tuple(Quota("upload_bytes", window, 2**62) for window in ("month", "live"))
"""Holds for everybody, whatever is declared: beyond it a counter's 63 bits would run over.

The largest batch adds less than half of that, and each shorter window is part of a month.
"""


class Cost(NamedTuple):
    """What grants cost, by metric: numbers of them, and bytes that may be uploaded."""

    grants: int = 0
    download_grants: int = 0
    upload_bytes: int = 0

    def plus(self, other: "Cost") -> "Cost":
        """It and another together."""
        return Cost(*(mine + its for mine, its in zip(self, other, strict=True)))

    def less(self, other: "Cost") -> "Cost":
        """What is left of it without another."""
        return Cost(*(mine - its for mine, its in zip(self, other, strict=True)))


NO_COST = Cost()

UsageByWindow = Mapping[Window, Cost]
"""What stands charged in the windows that hold one moment; a missing one was never charged."""


def reserved_cost(terms: AnyTerms, items: int) -> Cost:
    """Price that many items before they are known: each a grant, and its largest size in bytes.

    The URLs of a multipart upload's parts cost nothing, as the upload was paid for when it began.
    """
    match terms:
        case Download():
            return Cost(items, items, 0)
        case Parts():
            return NO_COST
    return Cost(items, 0, items * terms.max_size)


def granted_cost(terms: AnyTerms, granted: Collection[Item]) -> Cost:
    """Price items that were granted: those that say their exact size cost that."""
    reserved = reserved_cost(terms, len(granted))
    if isinstance(terms, Put | Multipart):
        return reserved._replace(upload_bytes=sum(item.size or 0 for item in granted))
    return reserved


def add_cost(used: UsageByWindow, cost: Cost) -> UsageByWindow:
    """What stands charged once a cost was added in every window."""
    return {window: used.get(window, NO_COST).plus(cost) for window in WINDOWS}


def window_start(window: Window, at: datetime) -> datetime:
    """When the window that holds this moment began, in UTC; live is one for all time."""
    minute = at.astimezone(UTC).replace(second=0, microsecond=0)
    match window:
        case "live":
            return _EPOCH
        case "minute":
            return minute
        case "hour":
            return minute.replace(minute=0)
        case "day":
            return minute.replace(minute=0, hour=0)
    return minute.replace(minute=0, hour=0, day=1)


_LENGTHS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}


def resets_at(window: Window, at: datetime) -> datetime | None:
    """When the window that holds this moment ends, in UTC; live never does."""
    if window == "live":
        return None
    if window in _LENGTHS:
        return window_start(window, at) + _LENGTHS[window]
    return window_start("month", window_start("month", at) + timedelta(days=32))


def effective_quotas(tenant: Tenant, at: datetime) -> tuple[Quota, ...]:
    """The tenant's quotas with what they are raised by at this moment."""
    return tuple(
        replace(quota, limit=quota.limit + _extra(tenant, quota, at)) for quota in tenant.quotas
    )


def _extra(tenant: Tenant, quota: Quota, at: datetime) -> int:
    return sum(
        one.extra
        for one in tenant.raises
        if (one.metric, one.window) == (quota.metric, quota.window) and at < one.until
    )


def quota_refusal(
    quotas: Iterable[Quota], used: UsageByWindow, asked: Cost, at: datetime
) -> Refusal | None:
    """Refuse what would take any quota over its limit, naming the first such quota."""
    for quota in quotas:
        more = getattr(asked, quota.metric)
        state = _state(quota, used, at)
        if more and state.used + more > quota.limit:
            return _over(state.model_copy(update={"asked": more}))
    return None


def quota_states(quotas: Iterable[Quota], used: UsageByWindow, at: datetime) -> list[QuotaState]:
    """How quotas stand."""
    return [_state(quota, used, at) for quota in quotas]


def _state(quota: Quota, used: UsageByWindow, at: datetime) -> QuotaState:
    return QuotaState(
        metric=quota.metric,
        window=quota.window,
        limit=quota.limit,
        used=getattr(used.get(quota.window, NO_COST), quota.metric),
        warn_at=quota.warn_at,
        resets_at=resets_at(quota.window, at),
    )


def _over(state: QuotaState) -> Refusal:
    name = (
        f"live {state.metric}" if state.window == "live" else f"{state.metric} per {state.window}"
    )
    message = f"the quota of {state.limit} {name} has {state.left} left"
    return Refusal(
        code=Code.QUOTA_EXCEEDED, field="total", message=message, limit=state.limit, quota=state
    )
