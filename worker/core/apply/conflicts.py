"""Finds contradictions between fields of a config that are each valid on their own."""

from collections.abc import Iterator
from typing import NamedTuple

from valetkey.units import describe_amount, describe_size
from valetkey.wire.refusals import Window
from worker.core.apply.overlaps import find_overlaps
from worker.core.kinds.role_session import MAX_POLICY_LENGTH, session_policy
from worker.core.quotas.cost import METRICS
from worker.core.tenants.config import Bucket, Policy, Quota, Tenant, TenantConfig
from worker.core.tenants.endpoints import NO_ENDPOINTS, DefaultEndpoints
from worker.core.tenants.fields import closest_name
from worker.core.tenants.locations import Location
from worker.core.tenants.storage_names import storage_name
from worker.core.uses.used_grant import SLOT_KINDS

_WINDOWS_BY_LENGTH: tuple[Window, ...] = ("minute", "hour", "day", "month")


class Conflict(NamedTuple):
    """A value of tenants.toml that contradicts another value or the lack of one.

    location is the value to correct, other_location the one that it contradicts, if there is one.
    """

    location: Location
    message: str
    hint: str
    other_location: Location | None = None


def find_conflicts(
    config: TenantConfig, endpoints: DefaultEndpoints = NO_ENDPOINTS
) -> list[Conflict]:
    """Return all conflicts: first those within each tenant, then those between tenants.

    endpoints are those of bucket profiles that name none.
    """
    return [
        *(
            conflict
            for tenant in config.tenants.values()
            for conflict in _tenant_conflicts(tenant, config)
        ),
        *_key_conflicts(config),
        *_prefix_conflicts(config, endpoints),
    ]


def _tenant_conflicts(tenant: Tenant, config: TenantConfig) -> Iterator[Conflict]:
    if tenant.trust == "keys" and not tenant.keys:
        message = (
            "every message of this tenant would be refused: it has no keys, and does not trust the"
            " queue"
        )
        hint = f"create a key: valetkey keygen {tenant.name}"
        yield Conflict(("tenants", tenant.name, "keys"), message, hint)
    yield from _limit_conflicts(tenant)
    stored = next((quota for quota in tenant.quotas if quota.metric == "stored_bytes"), None)
    for policy in tenant.policies.values():
        yield from _policy_conflicts(tenant, policy)
        bucket = config.buckets.get(policy.bucket)
        if stored and bucket is not None and may_store(policy):
            yield from _uncounted_conflicts(tenant, stored, policy, config)
        if bucket is not None and _exceeds_session_policy(bucket, policy):
            message = "with these prefixes the role's session policy is longer than AWS accepts"
            hint = (
                f"the limit is {MAX_POLICY_LENGTH:,} characters: use fewer or shorter prefixes,"
                " or a second bucket profile"
            )
            yield Conflict((*_policy_location(tenant, policy), "prefixes"), message, hint)


def _uncounted_conflicts(
    tenant: Tenant, quota: Quota, policy: Policy, config: TenantConfig
) -> Iterator[Conflict]:
    """Find stored objects that a quota of stored_bytes would not count."""
    bucket, name = config.buckets[policy.bucket], _quota_name(quota)
    same = [
        other for other in config.buckets.values() if storage_name(other) == storage_name(bucket)
    ]
    versioned = next((other for other in same if other.versioned), None)
    if versioned is not None:
        message = f"the bucket of {bucket.name} keeps earlier versions, which {name} does not count"
        hint = f"remove this quota, or allow the tenant no uploads in {bucket.name}"
        yield Conflict(
            _quota_location(tenant, quota), message, hint, ("buckets", versioned.name, "versioned")
        )
    if policy.free_names and bucket.events_queue is None:
        message = (
            f"nothing tells of objects whose names clients choose, so {name} would not count them"
        )
        hint = f"remove free_names, or set events_queue in [buckets.{bucket.name}]"
        free_names = (*_policy_location(tenant, policy), "free_names")
        yield Conflict(_quota_location(tenant, quota), message, hint, free_names)


def may_store(policy: Policy) -> bool:
    """Return True if the policy allows a kind of grant that stores objects."""
    return not set(SLOT_KINDS).isdisjoint(policy.kinds)


def _limit_conflicts(tenant: Tenant) -> Iterator[Conflict]:
    quotas = {(quota.metric, quota.window): quota for quota in tenant.quotas}
    for metric in METRICS:
        by_length = [
            quotas[metric, window] for window in _WINDOWS_BY_LENGTH if (metric, window) in quotas
        ]
        for number, quota in enumerate(by_length[:-1], start=1):
            smallest = min(by_length[number:], key=lambda longer: longer.limit)
            if quota.limit > smallest.limit:
                yield _unreachable_limit(tenant, quota, smallest)
    for quota in tenant.quotas:
        all_grants = quotas.get(("grants", quota.window))
        if quota.metric == "download_grants" and all_grants and quota.limit > all_grants.limit:
            yield _unreachable_limit(tenant, quota, all_grants)


def _unreachable_limit(tenant: Tenant, quota: Quota, other: Quota) -> Conflict:
    other_name = _quota_name(other)
    limit, other_limit = (describe_amount(q.metric, q.limit) for q in (quota, other))
    message = f"a limit of {limit} can never be reached: {other_name} allows only {other_limit}"
    hint = f"lower this limit to {other_limit}, or increase {other_name}"
    return Conflict(_quota_location(tenant, quota), message, hint, _quota_location(tenant, other))


def _quota_name(quota: Quota) -> str:
    return f"{quota.metric}.{quota.window}"


def _quota_location(tenant: Tenant, quota: Quota) -> Location:
    return ("tenants", tenant.name, "quotas", quota.metric, quota.window)


def _policy_conflicts(tenant: Tenant, policy: Policy) -> Iterator[Conflict]:
    location = _policy_location(tenant, policy)
    if policy.max_batch is not None and policy.max_batch > tenant.max_batch:
        message = f"this is more than the tenant's own max_batch of {tenant.max_batch:,}"
        hint = "lower this limit, or increase the tenant's max_batch"
        yield Conflict((*location, "max_batch"), message, hint)
    for number, name in enumerate(policy.callbacks or ()):
        if name not in tenant.endpoints:
            suggestion = closest_name(name, tenant.endpoints)
            table = f"[tenants.{tenant.name}.endpoints.{name}]"
            hint = f"did you mean {suggestion}?" if suggestion else f"add the table {table}"
            message = "the tenant has no endpoint of this name"
            yield Conflict((*location, "callbacks", number), message, hint)
    for quota in tenant.quotas:
        if quota.metric.endswith("_bytes") and quota.limit < policy.max_size:
            name = _quota_name(quota)
            message = (
                f"one upload of {describe_size(policy.max_size)} exceeds the quota {name} of"
                f" {describe_size(quota.limit)}"
            )
            hint = f"lower max_size, or increase {name}"
            yield Conflict((*location, "max_size"), message, hint, _quota_location(tenant, quota))


def _policy_location(tenant: Tenant, policy: Policy) -> Location:
    return ("tenants", tenant.name, "allow", policy.bucket)


def _exceeds_session_policy(bucket: Bucket, policy: Policy) -> bool:
    if bucket.role_arn is None:
        return False
    return len(session_policy(bucket.role_arn, bucket.bucket, policy.prefixes)) > MAX_POLICY_LENGTH


def _key_conflicts(config: TenantConfig) -> Iterator[Conflict]:
    """Find public keys that occur in more than one key table; each table is reported once."""
    locations: dict[str, Location] = {}
    for tenant in config.tenants.values():
        for key in tenant.keys.values():
            location = ("tenants", tenant.name, "keys", key.name)
            for public_key in (key.sign, key.seal):
                first = locations.setdefault(public_key, location)
                if first != location:
                    message = (
                        f"this repeats a public key of {first[1]}/{first[3]}, but a public key"
                        " identifies exactly one tenant and name"
                    )
                    hint = f"create another key: valetkey keygen {tenant.name}"
                    yield Conflict(location, message, hint, first)
                    break


def _prefix_conflicts(config: TenantConfig, endpoints: DefaultEndpoints) -> Iterator[Conflict]:
    for inner, outer in find_overlaps(config, endpoints):
        message = (
            f'"{inner.toml_prefix}" of {inner.tenant} overlaps "{outer.toml_prefix}" of'
            f" {outer.tenant} in the bucket {inner.bucket}"
        )
        hint = "make them disjoint, or write `shared = true` in both policies"
        yield Conflict(inner.location, message, hint, outer.location)
