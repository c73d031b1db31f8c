"""Plans an apply: the changed fields, the removals in use, and warnings about the new config.

Configs are compared field by field, without the database.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import chain
from typing import Any, Literal, NamedTuple

from valetkey.units import format_utc
from worker.rules.issued_grants import may_store
from worker.rules.policy_rules import client_chosen_families, unusable_content_types
from worker.rules.tenant_config import (
    Bucket,
    Policy,
    Tenant,
    TenantConfig,
    TenantKey,
    is_usable_key,
)
from worker.tenants.toml_fields import config_type, describe_number

Value = str | int | tuple[str, ...] | dict[str, int | str]
FieldValues = dict[str, Value]

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
    old, new = config_values(before), config_values(after)
    paths = sorted(path for path in old | new if old.get(path) != new.get(path))
    return [FieldChange(path, old.get(path), new.get(path)) for path in paths]


def config_values(config: TenantConfig) -> FieldValues:
    """Return the values of all fields that the file has, and the ids that it has not, by path."""
    tables = config_type().dump_python(config, by_alias=True, exclude_none=True, warnings=False)
    values = dict(chain.from_iterable(_leaves(name, tables[name]) for name in tables))
    for tenant in config.tenants.values():
        path = f"tenants.{tenant.name}"
        if tenant.replaces_another:
            values[f"{path}.id"] = tenant.id
        for quota in tenant.quotas:
            quota_path = f"{path}.quotas.{quota.metric}.{quota.window}"
            values[quota_path] = quota.limit
            if quota.warn_at is not None:
                values[f"{quota_path}.warn"] = quota.warn_at
    return values


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Value]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _leaves(f"{path}.{name}", item)
    else:
        yield path, _to_toml_value(value)


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


EXPIRY_NOTICE = timedelta(days=30)
"""The time before a key's expiry from which there is a warning about it."""


class InUseCounts(NamedTuple):
    """The numbers of live grants by tenant id and key, and of webhooks by tenant id and endpoint.

    The webhooks are those that are pending. A grant is live until it expires. The key is None for
    grants of unsigned messages.
    """

    live_grants: Mapping[tuple[str, str | None], int]
    pending_webhooks: Mapping[tuple[str, str], int]


class Removal(NamedTuple):
    """A tenant, key or endpoint to be removed, and its counts of what is in use.

    path is its location in tenants.toml.
    """

    path: str
    live_grants: int
    pending_webhooks: int

    @property
    def is_tenant(self) -> bool:
        """True if a whole tenant is removed."""
        return self.path.count(".") == 1

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.live_grants:,} live grants,"
            f" {self.pending_webhooks:,} pending webhooks"
        )


class ConfigWarning(NamedTuple):
    """A warning about a tenant or one of its keys (key is its name), and what to do about it."""

    code: Literal[
        "trusts_queue",
        "no_usable_key",
        "key_expired",
        "key_expires_soon",
        "name_reused",
        "content_type_unusable",
        "content_type_unchecked",
        "uploads_untold",
    ]
    tenant: str
    key: str | None
    message: str
    hint: str


class ApplyPlan(NamedTuple):
    """The changed fields, the removals that need confirmation, and warnings about the result."""

    changes: list[FieldChange]
    removals: list[Removal]
    warnings: list[ConfigWarning]

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values, with the field names of `apply --json`."""
        return {
            "changes": [change._asdict() for change in self.changes],
            "losses": [removal._asdict() for removal in self.removals],
            "risks": [warning._asdict() for warning in self.warnings],
            "trusts_queue": [
                warning.tenant for warning in self.warnings if warning.code == "trusts_queue"
            ],
        }


def plan_apply(
    before: TenantConfig, after: TenantConfig, in_use: InUseCounts, now: datetime
) -> ApplyPlan:
    """Plan the replacement of one config by another, whose tenants have the ids that they get.

    Those that are created at `now` are new.
    """
    return ApplyPlan(
        diff_config(before, after),
        find_removals(before, after, in_use, now),
        [*_reuse_warnings(after, now), *config_warnings(after, now)],
    )


def _reuse_warnings(after: TenantConfig, now: datetime) -> Iterator[ConfigWarning]:
    for name, tenant in after.tenants.items():
        if tenant.created_at == now and tenant.replaces_another:
            message = (
                f"{name} is a new tenant, {tenant.id}: it inherits no batches, usage, raised quotas"
                f" or webhooks of the removed tenant of this name"
            )
            hint = f"the audit log shows its rows under {tenant.id}"
            yield ConfigWarning("name_reused", name, None, message, hint)


def find_removals(
    before: TenantConfig, after: TenantConfig, in_use: InUseCounts, now: datetime
) -> list[Removal]:
    """Return all removed tenants, and the removed keys and endpoints that are in use.

    A key counts as removed, too, if it is replaced, revoked or set to a time in the past.
    """
    removals: list[Removal] = []
    for name, tenant in before.tenants.items():
        if name in after.tenants:
            removals += _key_removals(tenant, after.tenants[name], in_use, now)
            removals += _endpoint_removals(tenant, after.tenants[name], in_use)
        else:
            removals.append(_tenant_removal(tenant, in_use))
    return removals


def _tenant_removal(tenant: Tenant, in_use: InUseCounts) -> Removal:
    def total(counts: Mapping[tuple[str, Any], int]) -> int:
        return sum(count for (tenant_id, _), count in counts.items() if tenant_id == tenant.id)

    path = f"tenants.{tenant.name}"
    return Removal(path, total(in_use.live_grants), total(in_use.pending_webhooks))


def _key_removals(
    before: Tenant, after: Tenant, in_use: InUseCounts, now: datetime
) -> Iterator[Removal]:
    for name, key in before.keys.items():
        live_grants = in_use.live_grants.get((before.id, name), 0)
        new_key = after.keys.get(name)
        is_kept = new_key is not None and (new_key.sign, new_key.seal) == (key.sign, key.seal)
        is_disabled = is_usable_key(key, now) and not is_usable_key(new_key, now)
        if live_grants and (is_disabled or not is_kept):
            yield Removal(f"tenants.{before.name}.keys.{name}", live_grants, 0)


def _endpoint_removals(before: Tenant, after: Tenant, in_use: InUseCounts) -> Iterator[Removal]:
    for name in sorted(before.endpoints.keys() - after.endpoints.keys()):
        pending_webhooks = in_use.pending_webhooks.get((before.id, name), 0)
        if pending_webhooks:
            yield Removal(f"tenants.{before.name}.endpoints.{name}", 0, pending_webhooks)


def config_warnings(config: TenantConfig, now: datetime) -> list[ConfigWarning]:
    """Return warnings about tenants, keys that expire, content types, and uploads.

    A key that expires within 30 days, or has expired, has a warning.
    """
    warnings: list[ConfigWarning] = []
    for tenant in config.tenants.values():
        warnings += _tenant_warnings(tenant, now)
        warnings += _type_warnings(tenant, config.buckets)
        warnings += _upload_warnings(tenant, config.buckets)
    return warnings


def _tenant_warnings(tenant: Tenant, now: datetime) -> Iterator[ConfigWarning]:
    name, keygen = tenant.name, f"valetkey keygen {tenant.name}"
    if tenant.trust == "queue":
        message = f"{name} trusts the queue: anyone who can write to it can act for {name}"
        hint = f'create a key, and remove trust = "queue": {keygen}'
        if tenant.keys:
            message = (
                f'{name} has keys, and trust = "queue": anyone who can write to the queue can act'
                f" for {name} without a key"
            )
            hint = f'remove trust = "queue" from [tenants.{name}], once all its producers sign'
        yield ConfigWarning("trusts_queue", name, None, message, hint)
    elif not any(is_usable_key(key, now) for key in tenant.keys.values()):
        message = f"{name} has no usable key: all its messages are refused"
        yield ConfigWarning("no_usable_key", name, None, message, f"create a key: {keygen}")
    for key in tenant.keys.values():
        yield from _key_warnings(name, key, now)


def _type_warnings(tenant: Tenant, buckets: Mapping[str, Bucket]) -> Iterator[ConfigWarning]:
    for name, policy in tenant.policies.items():
        path = f"tenants.{tenant.name}.allow.{name}"
        for content_type in unusable_content_types(policy):
            message = (
                f"{path}: {content_type} allows nothing, because wildcards include only types that"
                f" browsers do not run"
            )
            hint = "name each type in content_types; docs/files.md lists what wildcards include"
            yield ConfigWarning("content_type_unusable", tenant.name, None, message, hint)
        families = _unchecked_families(policy, buckets.get(policy.bucket))
        if families:
            message = (
                f"{path}: a form for {', '.join(families)} may store any type, such as"
                f" {families[0][:-1]}x,text/html, if the storage does not check lists as AWS does"
            )
            hint = "name the types, or let browsers reach the objects through links only"
            yield ConfigWarning("content_type_unchecked", tenant.name, None, message, hint)


def _upload_warnings(tenant: Tenant, buckets: Mapping[str, Bucket]) -> Iterator[ConfigWarning]:
    for name, policy in tenant.policies.items():
        bucket = buckets.get(policy.bucket)
        is_reported = bucket is None or bucket.probe_rate or bucket.events_queue
        if not is_reported and may_store(policy):
            message = (
                f"tenants.{tenant.name}.allow.{name}: no source reports uploads, because the"
                f" profile {policy.bucket} has probe_rate = 0 and no events_queue: stored() waits"
                f" in vain, and unused bytes are not given back"
            )
            hint = f"set probe_rate or events_queue in [buckets.{policy.bucket}]"
            yield ConfigWarning("uploads_untold", tenant.name, None, message, hint)


def _unchecked_families(policy: Policy, bucket: Bucket | None) -> list[str]:
    """Return the families that forms leave to clients on storage that is not AWS."""
    if bucket is None or bucket.provider != "other" or not bucket.post:
        return []
    return client_chosen_families(policy) if "upload" in policy.kinds else []


def _key_warnings(tenant: str, key: TenantKey, now: datetime) -> Iterator[ConfigWarning]:
    if key.expires is None or key.revoked or now + EXPIRY_NOTICE < key.expires:
        return
    expires = f"{key.expires:%Y-%m-%d %H:%M} UTC"
    if key.expires <= now:
        message = f"key {tenant}/{key.name} expired on {expires}: its messages are refused"
        hint = "remove it when no producer uses it any more"
        yield ConfigWarning("key_expired", tenant, key.name, message, hint)
    else:
        message = f"key {tenant}/{key.name} expires on {expires}"
        hint = f"add another key before that time: valetkey keygen {tenant}"
        yield ConfigWarning("key_expires_soon", tenant, key.name, message, hint)
