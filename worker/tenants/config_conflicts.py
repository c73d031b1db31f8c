"""Finds contradictions in a config: between valid fields, tenants' prefixes, and new quotas."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import chain
from typing import NamedTuple

from valetkey.units import describe_amount, describe_size
from worker.rules.issued_grants import may_store, storage_host, storage_name
from worker.rules.quota_rules import METRICS, PAST_WINDOWS
from worker.rules.role_session import MAX_POLICY_LENGTH, session_policy
from worker.rules.tenant_config import (
    NO_ENDPOINTS,
    Bucket,
    DefaultEndpoints,
    Policy,
    Quota,
    Tenant,
    TenantConfig,
    is_ordinary_bucket,
)
from worker.tenants.toml_fields import Location, closest_name


class PrefixClaim(NamedTuple):
    """A prefix that a policy allows in a real bucket, and its location in the file."""

    prefix: str
    tenant: str
    bucket: str
    location: Location
    shared: bool

    @property
    def toml_prefix(self) -> str:
        """The prefix as tenants.toml writes it: "*" for the whole bucket."""
        return self.prefix or "*"


def find_prefix_overlaps(
    config: TenantConfig, endpoints: DefaultEndpoints = NO_ENDPOINTS
) -> list[tuple[PrefixClaim, PrefixClaim]]:
    """Return pairs of overlapping prefixes of different tenants, each with the longer one first.

    Two profiles have the same bucket if they have the same bucket name and storage host in common,
    whatever the profiles are called. The bucket behind an access point is not known here. Pairs
    whose policies are both shared are left out.
    """
    pairs = chain.from_iterable(
        _overlapping_pairs(claims) for claims in _claims_by_bucket(config, endpoints).values()
    )
    # A dict keeps the order, and a pair that shares several hosts once.
    return list(dict.fromkeys(pairs))


def _claims_by_bucket(
    config: TenantConfig, endpoints: DefaultEndpoints
) -> dict[tuple[str, str | None], list[PrefixClaim]]:
    claims: defaultdict[tuple[str, str | None], list[PrefixClaim]] = defaultdict(list)
    for tenant in config.tenants.values():
        for policy in tenant.policies.values():
            bucket = config.buckets.get(policy.bucket)
            if bucket is not None:
                # Hosts in links and in the worker's requests: one in common is the same storage.
                urls = endpoints.public_of(bucket), endpoints.internal_of(bucket)
                for host in {storage_host(url) for url in urls}:
                    claims[bucket.bucket, host].extend(_policy_claims(tenant.name, policy, bucket))
    return claims


def _policy_claims(tenant: str, policy: Policy, bucket: Bucket) -> Iterator[PrefixClaim]:
    for number, prefix in enumerate(policy.prefixes):
        location = ("tenants", tenant, "allow", policy.bucket, "prefixes", number)
        yield PrefixClaim(prefix, tenant, bucket.bucket, location, policy.shared)


def _overlapping_pairs(claims: list[PrefixClaim]) -> Iterator[tuple[PrefixClaim, PrefixClaim]]:
    # In sorted order, all claims that start with a prefix directly follow it.
    enclosing: list[PrefixClaim] = []
    for claim in sorted(claims):
        while enclosing and not claim.prefix.startswith(enclosing[-1].prefix):
            enclosing.pop()
        for outer in enclosing:
            if outer.tenant != claim.tenant and not (outer.shared and claim.shared):
                yield claim, outer
        enclosing.append(claim)


class Conflict(NamedTuple):
    """A value of tenants.toml that contradicts another value or the lack of one.

    location is the value to correct, other_location the one that it contradicts, if there is one.
    Without a hint, the description of the field is one.
    """

    location: Location
    message: str
    hint: str | None = None
    other_location: Location | None = None


def find_conflicts(
    config: TenantConfig, endpoints: DefaultEndpoints = NO_ENDPOINTS
) -> list[Conflict]:
    """Return all conflicts: first those within each table, then those between tenants."""
    within = (
        *(_bucket_conflicts(bucket) for bucket in config.buckets.values()),
        *(_tenant_conflicts(tenant, config) for tenant in config.tenants.values()),
    )
    between = _key_conflicts(config), _prefix_conflicts(config, endpoints)
    return list(chain.from_iterable((*within, *between)))


_ENDPOINT_CHOSEN_TWICE = (
    "this selects one of Amazon's endpoints, but endpoint is set already: remove one of the two"
)
_BUCKET_RULES: tuple[tuple[str, Callable[[Bucket], object], str], ...] = (
    (
        "addressing",  # AWS: VirtualHosting.html; its wildcard certificate covers one label
        lambda bucket: bucket.addressing == "virtual" and "." in bucket.bucket,
        'no certificate covers a bucket name with a dot as a host name: write addressing = "path"',
    ),
    (
        "provider",  # Cloudflare: r2/api/s3/api, "Bucket region"
        lambda bucket: (
            bucket.provider == "r2" and not (bucket.endpoint and bucket.region == "auto")
        ),
        (
            'R2 needs region = "auto" and the account\'s endpoint,'
            ' like endpoint = "https://ACCOUNT.r2.cloudflarestorage.com"'
        ),
    ),
    (
        "post",  # boto3 signs no form for an access point
        lambda bucket: bucket.post and not is_ordinary_bucket(bucket.bucket),
        "access points and directory buckets accept no POST forms: write post = false",
    ),
    ("fips", lambda bucket: bucket.fips and bucket.endpoint, _ENDPOINT_CHOSEN_TWICE),
    ("dualstack", lambda bucket: bucket.dualstack and bucket.endpoint, _ENDPOINT_CHOSEN_TWICE),
    ("accelerate", lambda bucket: bucket.accelerate and bucket.endpoint, _ENDPOINT_CHOSEN_TWICE),
    (
        "accelerate",  # AWS: transfer-acceleration.html, "Requirements"
        lambda bucket: (
            bucket.accelerate
            and (bucket.addressing == "path" or not is_ordinary_bucket(bucket.bucket))
        ),
        'acceleration needs addressing = "virtual" and an ordinary bucket without dots in its name',
    ),
    (
        "accelerate",
        lambda bucket: bucket.accelerate and bucket.fips,
        "acceleration has no FIPS endpoint: remove fips or accelerate",
    ),
    (
        "role_arn",
        lambda bucket: (
            bucket.role_arn and (bucket.provider == "r2" or not is_ordinary_bucket(bucket.bucket))
        ),
        (
            "a role's session can be limited to prefixes only in an ordinary bucket, not in an"
            " access point, a directory bucket or R2: remove role_arn"
        ),
    ),
)
"""Fields of a bucket profile, the predicate that is true if others contradict it, the message."""


def _bucket_conflicts(bucket: Bucket) -> Iterator[Conflict]:
    location = ("buckets", bucket.name)
    for field, is_contradicted, message in _BUCKET_RULES:
        if is_contradicted(bucket):
            yield Conflict((*location, field), message)
    region = bucket.bucket.split(":")[3] if bucket.bucket.startswith("arn:") else bucket.region
    if region != bucket.region:
        message = f'the access point\'s ARN has another region: write "{region}"'
        yield Conflict((*location, "region"), message)


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
        if bucket is not None and bucket.role_arn is not None:
            session = session_policy(bucket.role_arn, bucket.bucket, policy.prefixes)
            if len(session) > MAX_POLICY_LENGTH:
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
            f"no source reports objects whose names clients choose, so {name} would not count them"
        )
        hint = f"remove free_names, or set events_queue in [buckets.{bucket.name}]"
        free_names = (*_policy_location(tenant, policy), "free_names")
        yield Conflict(_quota_location(tenant, quota), message, hint, free_names)


def _limit_conflicts(tenant: Tenant) -> Iterator[Conflict]:
    quotas = {(quota.metric, quota.window): quota for quota in tenant.quotas}
    for metric in METRICS:
        by_length = [
            quotas[metric, window] for window in PAST_WINDOWS if (metric, window) in quotas
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
    if may_store(policy) and not policy.max_size:
        message = 'kinds that upload need max_size: add a line like max_size = "5GiB"'
        yield Conflict((*location, "max_size"), message)
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


def _key_conflicts(config: TenantConfig) -> Iterator[Conflict]:
    """Find public keys that occur more than once; a repetition is reported once for each table."""
    locations: dict[str, Location] = {}
    for tenant in config.tenants.values():
        for key in tenant.keys.values():
            location = ("tenants", tenant.name, "keys", key.name)
            if key.sign == key.seal:
                message = (
                    "sign and seal are two different keys, but here they are equal: copy the line"
                    " of `valetkey keygen`"
                )
                yield Conflict(location, message)
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
    for inner, outer in find_prefix_overlaps(config, endpoints):
        message = (
            f'"{inner.toml_prefix}" of {inner.tenant} overlaps "{outer.toml_prefix}" of'
            f" {outer.tenant} in the bucket {inner.bucket}"
        )
        hint = "make them disjoint, or write `shared = true` in both policies"
        yield Conflict(inner.location, message, hint, outer.location)


def new_conflicts(before: TenantConfig, after: TenantConfig) -> list[Conflict]:
    """Return the conflicts of the config after a change that it did not have before."""
    old_conflicts = find_conflicts(before)
    return [conflict for conflict in find_conflicts(after) if conflict not in old_conflicts]
