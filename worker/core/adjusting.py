"""A stored quota changed by itself, without its file: what comes of it, or why it cannot be."""

from dataclasses import replace
from datetime import datetime

from valetkey.refusals import Metric, Window
from worker.core.conflicts import Conflict, conflicts
from worker.core.quotas import effective
from worker.core.tenancy import Declared, Quota, Raise, Tenant


def find(tenant: Tenant, metric: Metric, window: Window) -> Quota | None:
    """The tenant's quota of a metric in a window, if it has one."""
    of = {(quota.metric, quota.window): quota for quota in tenant.quotas}
    return of.get((metric, window))


def with_quota(declared: Declared, tenant: Tenant, quota: Quota) -> Declared:
    """All that is declared, with one quota of a tenant added or replaced."""
    others = [q for q in tenant.quotas if (q.metric, q.window) != (quota.metric, quota.window)]
    ordered = tuple(sorted([*others, quota], key=lambda one: (one.metric, one.window)))
    changed = replace(tenant, quotas=ordered)
    return replace(declared, tenants={**declared.tenants, tenant.name: changed})


def new_conflicts(before: Declared, after: Declared) -> list[Conflict]:
    """What contradicts itself afterwards and did not before."""
    old = conflicts(before)
    return [one for one in conflicts(after) if one not in old]


def in_the_way(tenant: Tenant, raised: Raise, now: datetime) -> list[Conflict]:
    """The tenant's other quotas that come first however far this one is raised."""
    more = replace(tenant, raises=(*tenant.raises, raised))
    return new_conflicts(_in_effect(tenant, now), _in_effect(more, now))


def _in_effect(tenant: Tenant, now: datetime) -> Declared:
    return Declared(tenants={tenant.name: replace(tenant, quotas=effective(tenant, now))})
