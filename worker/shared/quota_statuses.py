"""The quotas of a tenant beside its usage, as operators read them."""

from collections.abc import Iterator
from datetime import datetime
from itertools import product
from typing import NamedTuple

from valetkey.units import format_utc
from valetkey.wire.refusals import Metric, Window
from worker.rules.quota_rules import (
    METRICS,
    WINDOWS,
    UsageByWindow,
    current_overrides,
    effective_quotas,
    quota_state,
    resets_at,
    used_amount,
)
from worker.rules.tenant_config import QuotaOverride, Tenant


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
    quotas = {(quota.metric, quota.window): quota for quota in effective_quotas(tenant, now)}
    for metric, window in product(METRICS, WINDOWS):
        used = used_amount(usage, metric, window)
        quota = quotas.get((metric, window))
        if quota is not None:
            state = quota_state(quota, usage, now)
            yield QuotaStatus(
                **state.model_dump(exclude={"asked"}),
                tenant=tenant.id,
                left=state.left,
                percent=used * 100 // state.limit,
                warns=state.warns,
                raises=tuple(map(override_to_dict, current_overrides(tenant, quota, now))),
            )
        elif include_unlimited and used:
            yield QuotaStatus(tenant.id, metric, window, used, resets_at(window, now))


def override_to_dict(override: QuotaOverride) -> dict[str, int | str]:
    """Return a quota override as JSON values: its amount (by) and its end (until)."""
    return {"by": override.extra, "until": format_utc(override.expires_at)}
