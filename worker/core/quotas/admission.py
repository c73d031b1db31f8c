"""Decides whether a cost fits into a tenant's quotas."""

from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple

from valetkey.units import describe_amount
from valetkey.wire.refusals import Code, QuotaState, Refusal
from worker.core.quotas.cost import (
    CEILINGS,
    Cost,
    UsageByWindow,
    add_to_usage,
    effective_quotas,
    quota_state,
    quota_states,
    used_amount,
)
from worker.core.tenants.config import Quota, Tenant


class QuotaAdmission(NamedTuple):
    """The decision on a cost: a refusal or None, and the tenant's quotas after it."""

    refusal: Refusal | None
    quotas: list[QuotaState]


def admit_cost(tenant: Tenant, usage: UsageByWindow, cost: Cost, now: datetime) -> QuotaAdmission:
    """Admit a cost in all of a tenant's quotas, or refuse it for the first quota that it exceeds.

    usage is what is charged already, without this cost.
    """
    limits = effective_quotas(tenant, now)
    refusal = first_quota_refusal((*limits, *CEILINGS), usage, cost, now)
    usage_after = usage if refusal is not None else add_to_usage(usage, cost)
    return QuotaAdmission(refusal, quota_states(limits, usage_after, now))


def first_quota_refusal(
    quotas: Iterable[Quota], usage: UsageByWindow, cost: Cost, now: datetime
) -> Refusal | None:
    """Refuse a cost for the first quota whose limit it would exceed."""
    for quota in quotas:
        amount = cost.requested(quota.metric)
        used = used_amount(usage, quota.metric, quota.window)
        if amount > 0 and used + amount > quota.limit:
            state = quota_state(quota, usage, now)
            return _refusal(state.model_copy(update={"asked": amount}))
    return None


def _refusal(state: QuotaState) -> Refusal:
    limit, left = (describe_amount(state.metric, number) for number in (state.limit, state.left))
    message = f"the quota {state.metric}.{state.window} of {limit} has {left} left"
    return Refusal(
        code=Code.QUOTA_EXCEEDED, field="total", message=message, limit=state.limit, quota=state
    )
