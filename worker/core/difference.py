"""What applying a declaration would change: decided on values, before any row is touched."""

import json
from typing import NamedTuple

from worker.core.tenancy import Bucket, Declared, Endpoint, Policy, Tenant

Value = str | int | tuple[str, ...]
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
)
_ENDPOINT = ("url", "secret")


class Change(NamedTuple):
    """One field that is added (nothing before), removed (nothing after) or changed.

    path is where it stands in tenants.toml; lives are in seconds, sizes in bytes.
    """

    path: str
    before: Value | None
    after: Value | None

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.path} {_text(self.after)}"
        if self.after is None:
            return f"- {self.path} {_text(self.before)}"
        return f"~ {self.path} {_text(self.before)} → {_text(self.after)}"


def difference(before: Declared, after: Declared) -> list[Change]:
    """Every field that differs, in the order of its path; none where the two are equal."""
    old, new = _leaves(before), _leaves(after)
    paths = sorted(path for path in old | new if old.get(path) != new.get(path))
    return [Change(path, old.get(path), new.get(path)) for path in paths]


def removed_tenants(before: Declared, after: Declared) -> list[str]:
    """The tenants whose requests would be refused from now on."""
    return sorted(before.tenants.keys() - after.tenants.keys())


def newly_unsigned(before: Declared, after: Declared) -> list[str]:
    """The tenants that the queue alone would speak for from now on."""
    return sorted(_unsigned(after) - _unsigned(before))


def _unsigned(declared: Declared) -> set[str]:
    return {tenant.name for tenant in declared.tenants.values() if tenant.trust == "queue"}


def _leaves(declared: Declared) -> Leaves:
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
        leaves[f"{path}.quotas.{quota.metric}.{quota.window}"] = quota.limit
    for name, endpoint in tenant.endpoints.items():
        leaves |= _fields(f"{path}.endpoints.{name}", endpoint, _ENDPOINT)
    return leaves


def _fields(
    path: str, thing: Bucket | Tenant | Policy | Endpoint, names: tuple[str, ...]
) -> Leaves:
    values = {name: getattr(thing, name) for name in names}
    return {
        f"{path}.{name}": _as_written(value) for name, value in values.items() if value is not None
    }


def _as_written(value: Value) -> Value:
    # Only a prefix can be empty; the file writes it as the whole bucket.
    return tuple(item or "*" for item in value) if isinstance(value, tuple) else value


def _text(value: Value | None) -> str:
    as_written = isinstance(value, tuple | bool)
    return json.dumps(value, ensure_ascii=False) if as_written else str(value)
