"""What applying a declaration would change: decided on values, before any row is touched."""

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
Leaves = dict[str, Value]

_BUCKET = (
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
_TENANT = ("trust", "max_batch")
_POLICY = (
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
_ENDPOINT = ("url", "secret")
_KEY = ("sign", "seal", "expires", "revoked")
_PUBLIC = re.compile(r"tenants\.[^.]+\.keys\.[^.]+\.(sign|seal)").fullmatch
_SHOWN = 8  # characters of a public key: enough to tell one from another


class FieldChange(NamedTuple):
    """One field that is added (nothing before), removed (nothing after) or changed.

    path is where it stands in tenants.toml; lives are in seconds, sizes in bytes, moments ISO 8601.
    As text it is one line, in which public keys are shortened.
    """

    path: str
    before: Value | None
    after: Value | None

    def __str__(self) -> str:
        before, after = (_text(self.path, value) for value in self[1:])
        if self.before is None:
            return f"+ {self.path} {after}"
        if self.after is None:
            return f"- {self.path} {before}"
        return f"~ {self.path} {before} → {after}"


def diff_config(before: TenantConfig, after: TenantConfig) -> list[FieldChange]:
    """Every field that differs, in the order of its path; none where the two are equal."""
    old, new = _leaves(before), _leaves(after)
    paths = sorted(path for path in old | new if old.get(path) != new.get(path))
    return [FieldChange(path, old.get(path), new.get(path)) for path in paths]


def _leaves(declared: TenantConfig) -> Leaves:
    leaves: Leaves = {}
    for bucket in declared.buckets.values():
        leaves |= _fields(f"buckets.{bucket.name}", bucket, _BUCKET)
    for tenant in declared.tenants.values():
        leaves |= _of_tenant(f"tenants.{tenant.name}", tenant)
    return leaves


def _of_tenant(path: str, tenant: Tenant) -> Leaves:
    leaves = _fields(path, tenant, _TENANT)
    for bucket, policy in tenant.policies.items():
        leaves |= _fields(f"{path}.allow.{bucket}", policy, _POLICY)
    for quota in tenant.quotas:
        leaves |= _of_quota(path, quota)
    for name, endpoint in tenant.endpoints.items():
        leaves |= _fields(f"{path}.endpoints.{name}", endpoint, _ENDPOINT)
    for name, key in tenant.keys.items():
        leaves |= _fields(f"{path}.keys.{name}", key, _KEY)
    return leaves


def _of_quota(path: str, quota: Quota) -> Leaves:
    at = f"{path}.quotas.{quota.metric}.{quota.window}"
    leaves: Leaves = {at: quota.limit}
    return leaves if quota.warn_at is None else leaves | {f"{at}.warn": quota.warn_at}


def _fields(
    path: str, thing: Bucket | Tenant | Policy | Endpoint | TenantKey, names: tuple[str, ...]
) -> Leaves:
    values = {name: getattr(thing, name) for name in names}
    return {
        f"{path}.{name}": _as_written(value) for name, value in values.items() if value is not None
    }


def _as_written(value: Value | datetime) -> Value:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    # Only a prefix can be empty; the file writes it as the whole bucket.
    return tuple(item or "*" for item in value) if isinstance(value, tuple) else value


def _text(path: str, value: Value | None) -> str:
    if isinstance(value, tuple | bool):
        return json.dumps(value, ensure_ascii=False)
    return f"{str(value)[:_SHOWN]}…" if _PUBLIC(path) else str(value)
