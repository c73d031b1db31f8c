"""Finds prefixes of two tenants that contain the same objects."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from worker.core.tenants.config import Bucket, Policy, TenantConfig
from worker.core.tenants.endpoints import NO_ENDPOINTS, DefaultEndpoints
from worker.core.tenants.locations import Location
from worker.core.tenants.storage_names import storage_host


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


def find_overlaps(
    config: TenantConfig, endpoints: DefaultEndpoints = NO_ENDPOINTS
) -> list[tuple[PrefixClaim, PrefixClaim]]:
    """Return pairs of overlapping prefixes of different tenants, each with the longer one first.

    Two profiles have the same bucket if they have the same bucket name and storage host in common,
    whatever the profiles are called. The bucket behind an access point is not known here. Pairs
    whose policies are both shared are left out. endpoints are those of bucket profiles that name
    none.
    """
    # A dict keeps the order, and a pair that shares several hosts once.
    overlaps: dict[tuple[PrefixClaim, PrefixClaim], None] = {}
    for claims in _claims_by_bucket(config, endpoints).values():
        overlaps.update(dict.fromkeys(_overlapping_pairs(claims)))
    return list(overlaps)


def _claims_by_bucket(
    config: TenantConfig, endpoints: DefaultEndpoints
) -> dict[tuple[str, str | None], list[PrefixClaim]]:
    claims: defaultdict[tuple[str, str | None], list[PrefixClaim]] = defaultdict(list)
    for tenant in config.tenants.values():
        for policy in tenant.policies.values():
            bucket = config.buckets.get(policy.bucket)
            if bucket is not None:
                for host in _storage_hosts(bucket, endpoints):
                    claims[bucket.bucket, host].extend(_policy_claims(tenant.name, policy, bucket))
    return claims


def _storage_hosts(bucket: Bucket, endpoints: DefaultEndpoints) -> set[str | None]:
    """Return the hosts in links and in the worker's requests. One in common is the same storage."""
    return {
        storage_host(url) for url in (endpoints.public_of(bucket), endpoints.internal_of(bucket))
    }


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
