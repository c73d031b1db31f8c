"""Prefixes of two tenants that lead to the same objects."""

from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

from worker.core.tenants.config import Bucket, Policy, TenantConfig
from worker.core.tenants.locations import Location

_AWS = "AWS"
_AMAZONS = (".amazonaws.com", ".amazonaws.com.cn")
_PORTS = {"http": ":80", "https": ":443"}  # either is the same server


class PrefixClaim(NamedTuple):
    """A prefix that a policy opens in a real bucket, and its place in the file."""

    prefix: str
    tenant: str
    bucket: str
    at: Location
    shared: bool

    @property
    def written(self) -> str:
        """As it stands in the file."""
        return self.prefix or "*"


def find_overlaps(
    declared: TenantConfig, endpoint: str | None = None
) -> list[tuple[PrefixClaim, PrefixClaim]]:
    """Pairs of different tenants' prefixes of which one begins with the other, the longer first.

    A bucket is the same where its name and where it is reached are the same, whatever the profiles
    are called; what an access point leads to is not known here. Pairs that both share are left out.
    """
    found: dict[
        tuple[PrefixClaim, PrefixClaim], None
    ] = {}  # in order, and once, however often they meet
    for claims in _by_real_bucket(declared, endpoint).values():
        found.update(dict.fromkeys(_pairs(claims)))
    return list(found)


def _pairs(claims: list[PrefixClaim]) -> Iterator[tuple[PrefixClaim, PrefixClaim]]:
    # In this order all that begins with a prefix comes right behind it.
    around: list[PrefixClaim] = []
    for claim in sorted(claims):
        while around and not claim.prefix.startswith(around[-1].prefix):
            around.pop()
        for outer in around:
            if outer.tenant != claim.tenant and not (outer.shared and claim.shared):
                yield claim, outer
        around.append(claim)


def _by_real_bucket(
    declared: TenantConfig, endpoint: str | None
) -> dict[tuple[str, str], list[PrefixClaim]]:
    claims: defaultdict[tuple[str, str], list[PrefixClaim]] = defaultdict(list)
    for tenant in declared.tenants.values():
        for policy in tenant.policies.values():
            bucket = declared.buckets.get(policy.bucket)
            if bucket is not None:
                for place in _places(bucket, endpoint):
                    claims[bucket.bucket, place].extend(_claims(tenant.name, policy, bucket))
    return claims


def _claims(tenant: str, policy: Policy, bucket: Bucket) -> Iterator[PrefixClaim]:
    for number, prefix in enumerate(policy.prefixes):
        at = ("tenants", tenant, "allow", policy.bucket, "prefixes", number)
        yield PrefixClaim(prefix, tenant, bucket.bucket, at, policy.shared)


def _places(bucket: Bucket, endpoint: str | None) -> set[str]:
    """Where a bucket is reached, by links and by the worker: one in common is the same storage."""
    amazons = bucket.fips or bucket.dualstack or bucket.accelerate
    public = bucket.endpoint or (None if amazons else endpoint)
    return {_place(url) for url in (public, bucket.internal_endpoint or public)}


def _place(endpoint: str | None) -> str:
    if endpoint is None:
        return _AWS
    scheme, _, rest = endpoint.lower().partition("://")
    host = rest.partition("/")[0].removesuffix(_PORTS.get(scheme, ":"))
    return _AWS if host.endswith(_AMAZONS) else host
