"""What cannot be declared together: each field may be right by itself, and the whole is not."""

from collections.abc import Iterator
from typing import NamedTuple

from valetkey.wire.refusals import Metric, Window
from worker.core.apply.overlaps import find_overlaps
from worker.core.signing.session_policy import MAX_POLICY_LENGTH, session_policy
from worker.core.tenants.config import Bucket, Policy, Quota, Tenant, TenantConfig
from worker.core.tenants.fields import closest_name
from worker.core.tenants.locations import Location

_LONGER: tuple[Window, ...] = ("minute", "hour", "day", "month")


class Conflict(NamedTuple):
    """What stands at a place of the file cannot be, perhaps because of what stands at another."""

    at: Location
    message: str
    hint: str
    because_of: Location | None = None


def find_conflicts(declared: TenantConfig, endpoint: str | None = None) -> list[Conflict]:
    """Everything that contradicts itself, tenant by tenant and then between them.

    endpoint is that of bucket profiles that name none; without it, they are at AWS.
    """
    found = [one for tenant in declared.tenants.values() for one in _of_tenant(tenant, declared)]
    return [*found, *_shared_keys(declared), *_overlapping(declared, endpoint)]


def _of_tenant(tenant: Tenant, declared: TenantConfig) -> Iterator[Conflict]:
    at = ("tenants", tenant.name)
    if tenant.trust == "keys" and not tenant.keys:
        text = "nobody could speak for the tenant: it has no keys, and does not trust the queue"
        yield Conflict((*at, "keys"), text, f"make one: valetkey keygen {tenant.name}")
    yield from _of_quotas(tenant)
    for policy in tenant.policies.values():
        yield from _of_policy(tenant, policy)
        bucket = declared.buckets.get(policy.bucket)
        if bucket is not None and _over(bucket, policy):
            text = "these make a role's session policy longer than AWS takes"
            hint = (
                f"{MAX_POLICY_LENGTH:,} characters: fewer or shorter prefixes, or a second profile"
            )
            yield Conflict((*at, "allow", policy.bucket, "prefixes"), text, hint)


def _over(bucket: Bucket, policy: Policy) -> bool:
    if bucket.role_arn is None:
        return False
    return len(session_policy(bucket.role_arn, bucket.bucket, policy.prefixes)) > MAX_POLICY_LENGTH


def _of_policy(tenant: Tenant, policy: Policy) -> Iterator[Conflict]:
    at = ("tenants", tenant.name, "allow", policy.bucket)
    if policy.max_batch is not None and policy.max_batch > tenant.max_batch:
        text = f"more than the tenant's own max_batch of {tenant.max_batch:,} is never taken"
        yield Conflict((*at, "max_batch"), text, "lower it, or raise the tenant's")
    for number, name in enumerate(policy.callbacks or ()):
        if name not in tenant.endpoints:
            meant = closest_name(name, tenant.endpoints)
            table = f"[tenants.{tenant.name}.endpoints.{name}]"
            hint = f"did you mean {meant}?" if meant else f"declare it: {table}"
            yield Conflict((*at, "callbacks", number), "no such endpoint of the tenant", hint)
    for quota in tenant.quotas:
        if quota.metric == "upload_bytes" and quota.limit < policy.max_size:
            text = f"one such upload is over the quota of {quota.limit:,} bytes, {_name(quota)}"
            yield Conflict(
                (*at, "max_size"), text, "lower it, or raise the quota", _place(at, quota)
            )


def _of_quotas(tenant: Tenant) -> Iterator[Conflict]:
    at = ("tenants", tenant.name)
    of = {(quota.metric, quota.window): quota for quota in tenant.quotas}
    metrics: tuple[Metric, ...] = ("grants", "download_grants", "upload_bytes")
    for metric in metrics:
        limits = [of[metric, window] for window in _LONGER if (metric, window) in of]
        for number, shorter in enumerate(limits[:-1], start=1):
            least = min(limits[number:], key=lambda longer: longer.limit)
            if shorter.limit > least.limit:
                yield _unreachable(at, shorter, least)
    for quota in tenant.quotas:
        of_all = of.get(("grants", quota.window))
        if quota.metric == "download_grants" and of_all and quota.limit > of_all.limit:
            yield _unreachable(at, quota, of_all)


def _unreachable(at: Location, quota: Quota, other: Quota) -> Conflict:
    text = f"{quota.limit:,} can never be reached: there are only {other.limit:,}, {_name(other)}"
    hint = f"lower it, or raise {_name(other)}"
    return Conflict(_place(at, quota), text, hint, _place(at, other))


def _name(quota: Quota) -> str:
    return f"{quota.metric}.{quota.window}"


def _place(at: Location, quota: Quota) -> Location:
    return (*at[:2], "quotas", quota.metric, quota.window)


def _shared_keys(declared: TenantConfig) -> Iterator[Conflict]:
    seen: dict[str, Location] = {}
    for tenant in declared.tenants.values():
        for key in tenant.keys.values():
            at = ("tenants", tenant.name, "keys", key.name)
            for half in (key.sign, key.seal):
                first = seen.setdefault(half, at)
                if first != at:
                    other = f"{first[1]}/{first[3]}"
                    text = f"this is the key {other} again, and a key speaks for one tenant"
                    hint = f"make another: valetkey keygen {tenant.name}"
                    yield Conflict(at, text, hint, first)
                    break


def _overlapping(declared: TenantConfig, endpoint: str | None) -> Iterator[Conflict]:
    for one, other in find_overlaps(declared, endpoint):
        text = (
            f'"{one.written}" of {one.tenant} overlaps "{other.written}" of {other.tenant}'
            f" in the bucket {one.bucket}"
        )
        hint = "make them disjoint, or write `shared = true` in both policies"
        yield Conflict(one.at, text, hint, other.at)
