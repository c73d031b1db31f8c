"""Checks and records a raise of a quota."""

from dataclasses import asdict, replace
from datetime import datetime

from pydantic import TypeAdapter
from sqlalchemy import Connection, delete, insert

import models
from valetkey.wire.refusals import Metric, Window
from worker.ledger.tenant_rows import increment_revision
from worker.rules.quota_rules import effective_quotas
from worker.rules.tenant_config import (
    ByteQuotaLimit,
    Quota,
    QuotaLimit,
    QuotaOverride,
    Tenant,
    TenantConfig,
)
from worker.shared.quota_statuses import override_to_dict
from worker.tenants.apply_plan import FieldChange
from worker.tenants.config_changes import ChangeAuthor, record_changes
from worker.tenants.config_conflicts import Conflict, new_conflicts


def raise_quota(
    connection: Connection, tenant: Tenant, override: QuotaOverride, author: ChangeAuthor
) -> FieldChange:
    """Raise a quota of a tenant, with the log of it, in one transaction, and return the change."""
    add_quota_override(connection, tenant.id, override, author.changed_at)
    path = f"tenants.{tenant.name}.quotas.{override.metric}.{override.window}.raise"
    change = FieldChange(path, None, override_to_dict(override))
    record_changes(connection, [change], author)
    return change


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


def override_conflicts(tenant: Tenant, override: QuotaOverride, now: datetime) -> list[Conflict]:
    """Return the conflicts that an override adds: another quota prevents its raised limit.

    Such a quota is used up first, so the increased limit cannot be reached.
    """
    overridden = replace(tenant, quota_overrides=(*tenant.quota_overrides, override))
    return new_conflicts(_effective_config(tenant, now), _effective_config(overridden, now))


def add_quota_override(
    connection: Connection, tenant_id: str, override: QuotaOverride, now: datetime
) -> None:
    """Add an override that every worker applies at once, and delete expired overrides."""
    increment_revision(connection)
    connection.execute(delete(models.QuotaOverride).where(models.QuotaOverride.expires_at <= now))
    connection.execute(insert(models.QuotaOverride).values(tenant=tenant_id, **asdict(override)))


def parse_quota(metric: Metric, window: Window, limit: str, warn: str | int | None) -> Quota:
    """Parse a quota from command-line arguments. Raises pydantic's ValidationError."""
    limit_type = ByteQuotaLimit if metric.endswith("_bytes") else QuotaLimit
    values = {"limit": _parse_limit(limit), "warn": _parse_limit(warn)}
    parsed = TypeAdapter[ByteQuotaLimit | QuotaLimit](limit_type).validate_python(values)
    return Quota(metric, window, parsed.limit, parsed.warn)


def _parse_limit(text: str | int | None) -> str | int | None:
    digits = text.replace("_", "") if isinstance(text, str) else ""
    return int(digits) if digits.isascii() and digits.isdecimal() else text


def _effective_config(tenant: Tenant, now: datetime) -> TenantConfig:
    return TenantConfig(
        tenants={tenant.name: replace(tenant, quotas=effective_quotas(tenant, now))}
    )
