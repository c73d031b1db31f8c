"""A stored quota changed by itself, without its file: what comes of it, or why it cannot be."""

from dataclasses import replace
from datetime import datetime

from valetkey.wire.refusals import Metric, Window
from worker.core.apply.conflicts import Conflict, find_conflicts
from worker.core.quotas.cost import effective_quotas
from worker.core.tenants.config import Quota, QuotaOverride, Tenant, TenantConfig


def find_quota(tenant: Tenant, metric: Metric, window: Window) -> Quota | None:
    """The tenant's quota of a metric in a window, if it has one."""
    of = {(quota.metric, quota.window): quota for quota in tenant.quotas}
    return of.get((metric, window))


def with_quota(declared: TenantConfig, tenant: Tenant, quota: Quota) -> TenantConfig:
    """All that is declared, with one quota of a tenant added or replaced."""
    others = [q for q in tenant.quotas if (q.metric, q.window) != (quota.metric, quota.window)]
    ordered = tuple(sorted([*others, quota], key=lambda one: (one.metric, one.window)))
    changed = replace(tenant, quotas=ordered)
    return replace(declared, tenants={**declared.tenants, tenant.name: changed})


def new_conflicts(before: TenantConfig, after: TenantConfig) -> list[Conflict]:
    """What contradicts itself afterwards and did not before."""
    old = find_conflicts(before)
    return [one for one in find_conflicts(after) if one not in old]


def blocking_quotas(tenant: Tenant, raised: QuotaOverride, now: datetime) -> list[Conflict]:
    """The tenant's other quotas that come first however far this one is raised."""
    more = replace(tenant, raises=(*tenant.raises, raised))
    return new_conflicts(_in_effect(tenant, now), _in_effect(more, now))


def _in_effect(tenant: Tenant, now: datetime) -> TenantConfig:
    return TenantConfig(
        tenants={tenant.name: replace(tenant, quotas=effective_quotas(tenant, now))}
    )
