"""Compares two configs field by field, without the database."""

import json
import re
from collections.abc import Iterable
from dataclasses import fields
from datetime import datetime
from typing import NamedTuple

from valetkey.units import format_utc
from worker.core.tenants.config import (
    Bucket,
    Policy,
    Quota,
    Tenant,
    TenantConfig,
    TenantKey,
    WebhookEndpoint,
)
from worker.core.tenants.field_units import describe_number

Value = str | int | tuple[str, ...] | dict[str, int | str]
FieldValues = dict[str, Value]
_Table = Bucket | Policy | WebhookEndpoint | TenantKey

_TENANT_FIELDS = ("trust", "max_batch", "refund_unused")  # the others are tables of their own
_is_public_key_path = re.compile(r"tenants\.[^.]+\.keys\.[^.]+\.(sign|seal)").fullmatch
_PUBLIC_KEY_PREVIEW = 8  # characters: enough to distinguish keys


class FieldChange(NamedTuple):
    """A field that is added (before is None), removed (after is None) or changed.

    path is the field's location in tenants.toml. The file has no id: it is that of a tenant whose
    name a removed one had before. Durations are in seconds, sizes in bytes, times in
    ISO 8601. str() returns one line, with durations and sizes in words and public keys shortened.
    """

    path: str
    before: Value | None
    after: Value | None

    def __str__(self) -> str:
        before, after = (_format_value(self.path, value) for value in (self.before, self.after))
        if self.before is None:
            return f"+ {self.path} {after}"
        if self.after is None:
            return f"- {self.path} {before}"
        return f"~ {self.path} {before} → {after}"


def diff_config(before: TenantConfig, after: TenantConfig) -> list[FieldChange]:
    """Return every field that differs, in the order of its path."""
    old, new = _config_values(before), _config_values(after)
    paths = sorted(path for path in old | new if old.get(path) != new.get(path))
    return [FieldChange(path, old.get(path), new.get(path)) for path in paths]


def _config_values(config: TenantConfig) -> FieldValues:
    values: FieldValues = {}
    for bucket in config.buckets.values():
        values |= _table_values(f"buckets.{bucket.name}", bucket, _field_names(bucket))
    for tenant in config.tenants.values():
        values |= _tenant_values(f"tenants.{tenant.name}", tenant)
    return values


def _tenant_values(path: str, tenant: Tenant) -> FieldValues:
    values = _table_values(path, tenant, _TENANT_FIELDS)
    if tenant.replaces_another:
        values[f"{path}.id"] = tenant.id
    for bucket, policy in tenant.policies.items():
        values |= _table_values(f"{path}.allow.{bucket}", policy, _field_names(policy))
    for quota in tenant.quotas:
        values |= _quota_values(f"{path}.quotas.{quota.metric}.{quota.window}", quota)
    for name, endpoint in tenant.endpoints.items():
        values |= _table_values(f"{path}.endpoints.{name}", endpoint, _field_names(endpoint))
    for name, key in tenant.keys.items():
        values |= _table_values(f"{path}.keys.{name}", key, _field_names(key))
    return values


def _quota_values(path: str, quota: Quota) -> FieldValues:
    values: FieldValues = {path: quota.limit}
    if quota.warn_at is not None:
        values[f"{path}.warn"] = quota.warn_at
    return values


def _field_names(table: _Table) -> list[str]:
    """Return the names of all fields that the file has, but for the one in the table's path."""
    left_out = {"bucket"} if isinstance(table, Policy) else {"name", "sessions_from"}
    return [field.name for field in fields(table) if field.name not in left_out]


def _table_values(path: str, table: _Table | Tenant, names: Iterable[str]) -> FieldValues:
    values = {name: getattr(table, name) for name in names}
    return {
        f"{path}.{name}": _to_toml_value(value)
        for name, value in values.items()
        if value is not None
    }


def _to_toml_value(value: Value | datetime) -> Value:
    if isinstance(value, datetime):
        return format_utc(value)
    # Only a prefix can be empty; the file writes it as "*", the whole bucket.
    return tuple(item or "*" for item in value) if isinstance(value, tuple) else value


def _format_value(path: str, value: Value | None) -> str:
    if isinstance(value, tuple | bool):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return describe_number(tuple(path.split(".")), value)
    text = str(value)
    return f"{text[:_PUBLIC_KEY_PREVIEW]}…" if _is_public_key_path(path) else text
