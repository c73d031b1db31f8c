"""Changes to a single stored quota, and the conflicts that they introduce."""

from dataclasses import replace
from datetime import datetime

from valetkey.wire.refusals import Metric, Window
from worker.core.apply.conflicts import Conflict, find_conflicts
from worker.core.quotas.cost import effective_quotas
from worker.core.tenants.config import Quota, QuotaOverride, Tenant, TenantConfig


def find_quota(tenant: Tenant, metric: Metric, window: Window) -> Quota | None:
    """Return the tenant's quota of a metric and window, or None."""
    quotas = {(quota.metric, quota.window): quota for quota in tenant.quotas}
    return quotas.get((metric, window))


def with_quota(config: TenantConfig, tenant: Tenant, quota: Quota) -> TenantConfig:
    """Return a copy of the config in which one quota of a tenant is added or replaced."""
    others = [q for q in tenant.quotas if (q.metric, q.window) != (quota.metric, quota.window)]
    quotas = tuple(sorted([*others, quota], key=lambda item: (item.metric, item.window)))
    changed_tenant = replace(tenant, quotas=quotas)
    return replace(config, tenants={**config.tenants, tenant.name: changed_tenant})


def new_conflicts(before: TenantConfig, after: TenantConfig) -> list[Conflict]:
    """Return the conflicts of the config after a change that it did not have before."""
    old_conflicts = find_conflicts(before)
    return [conflict for conflict in find_conflicts(after) if conflict not in old_conflicts]


def override_conflicts(tenant: Tenant, override: QuotaOverride, now: datetime) -> list[Conflict]:
    """Return the conflicts that an override adds: another quota prevents its raised limit.

    Such a quota is used up first, so the increased limit cannot be reached.
    """
    overridden = replace(tenant, quota_overrides=(*tenant.quota_overrides, override))
    return new_conflicts(_effective_config(tenant, now), _effective_config(overridden, now))


def _effective_config(tenant: Tenant, now: datetime) -> TenantConfig:
    return TenantConfig(
        tenants={tenant.name: replace(tenant, quotas=effective_quotas(tenant, now))}
    )
