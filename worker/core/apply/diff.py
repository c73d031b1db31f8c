"""Compares two configs field by field, without the database."""

import json
import re
from datetime import UTC, datetime
from typing import NamedTuple

from worker.core.tenants.config import (
    Bucket,
    Endpoint,
    Policy,
    Quota,
    Tenant,
    TenantConfig,
    TenantKey,
)

Value = str | int | tuple[str, ...] | dict[str, int | str]
FieldValues = dict[str, Value]

_BUCKET_FIELDS = (
    "bucket",
    "region",
    "addressing",
    "endpoint",
    "profile",
    "internal_endpoint",
    "provider",
    "post",
    "fips",
    "dualstack",
    "accelerate",
    "owner",
    "max_expires_in",
    "role_arn",
    "external_id",
    "role_seconds",
)
_TENANT_FIELDS = ("trust", "max_batch")
_POLICY_FIELDS = (
    "prefixes",
    "kinds",
    "max_expires_in",
    "max_size",
    "content_types",
    "acls",
    "inline",
    "overrides",
    "storage_classes",
    "kms_keys",
    "redirects",
    "free_names",
    "overwrite",
    "callbacks",
    "max_batch",
    "shared",
)
_ENDPOINT_FIELDS = ("url", "secret")
_KEY_FIELDS = ("sign", "seal", "expires", "revoked")
_is_public_key_path = re.compile(r"tenants\.[^.]+\.keys\.[^.]+\.(sign|seal)").fullmatch
_PUBLIC_KEY_PREVIEW = 8  # characters: enough to distinguish keys


class FieldChange(NamedTuple):
    """A field that is added (before is None), removed (after is None) or changed.

    path is the field's location in tenants.toml. Durations are in seconds, sizes in bytes, times in
    ISO 8601. str() returns one line, in which public keys are shortened.
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
        values |= _table_values(f"buckets.{bucket.name}", bucket, _BUCKET_FIELDS)
    for tenant in config.tenants.values():
        values |= _tenant_values(f"tenants.{tenant.name}", tenant)
    return values


def _tenant_values(path: str, tenant: Tenant) -> FieldValues:
    values = _table_values(path, tenant, _TENANT_FIELDS)
    for bucket, policy in tenant.policies.items():
        values |= _table_values(f"{path}.allow.{bucket}", policy, _POLICY_FIELDS)
    for quota in tenant.quotas:
        values |= _quota_values(f"{path}.quotas.{quota.metric}.{quota.window}", quota)
    for name, endpoint in tenant.endpoints.items():
        values |= _table_values(f"{path}.endpoints.{name}", endpoint, _ENDPOINT_FIELDS)
    for name, key in tenant.keys.items():
        values |= _table_values(f"{path}.keys.{name}", key, _KEY_FIELDS)
    return values


def _quota_values(path: str, quota: Quota) -> FieldValues:
    values: FieldValues = {path: quota.limit}
    if quota.warn_at is not None:
        values[f"{path}.warn"] = quota.warn_at
    return values


def _table_values(
    path: str, table: Bucket | Tenant | Policy | Endpoint | TenantKey, names: tuple[str, ...]
) -> FieldValues:
    values = {name: getattr(table, name) for name in names}
    return {
        f"{path}.{name}": _to_toml_value(value)
        for name, value in values.items()
        if value is not None
    }


def _to_toml_value(value: Value | datetime) -> Value:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    # Only a prefix can be empty; the file writes it as "*", the whole bucket.
    return tuple(item or "*" for item in value) if isinstance(value, tuple) else value


def _format_value(path: str, value: Value | None) -> str:
    if isinstance(value, tuple | bool):
        return json.dumps(value, ensure_ascii=False)
    text = str(value)
    return f"{text[:_PUBLIC_KEY_PREVIEW]}…" if _is_public_key_path(path) else text
