"""The buckets whose events a queue may tell, and the tenants that store objects in them."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from worker.context import Context
from worker.core.tenants.config import Bucket, TenantAccess, TenantConfig
from worker.core.tenants.storage_names import storage_name
from worker.core.uses.used_grant import SLOT_KINDS
from worker.db.engine import read_transaction
from worker.db.uses.used_grants import bucket_history

_Names = Mapping[str, frozenset[str]]  # storage names by the name that notifications have


class QueueTargets(NamedTuple):
    """The objects and tenants about which one queue is believed.

    accesses are those of tenants that store objects, by storage name and prefix. today are the
    storage names of the buckets to which the profiles that name the queue lead, and former those to
    which they have led, both by the name of the bucket. Events of others are not believed, because
    whoever writes to the queue may be someone else.
    """

    accesses: Mapping[tuple[str, str], TenantAccess]
    today: _Names
    former: _Names

    def storing_buckets(self, name: str) -> frozenset[str]:
        """Return the storage names of the buckets that a new object may be in.

        Usually one: more if the profiles lead to buckets of one name on several servers.
        """
        return self.today.get(name) or frozenset(sorted(self.former.get(name, ()))[:1])

    def known_buckets(self, name: str) -> frozenset[str]:
        """Return the storage names under which an object may be known that is deleted now."""
        return self.today.get(name, frozenset()) | self.former.get(name, frozenset())

    def find_access(self, bucket: str, object_key: str) -> TenantAccess | None:
        """Return the access under whose longest prefix a key is, or None.

        A prefix ends with a slash, or is that of the whole bucket.
        """
        ends = [end for end, character in enumerate(object_key, 1) if character == "/"]
        for end in (*reversed(ends), 0):
            access = self.accesses.get((bucket, object_key[:end]))
            if access is not None:
                return access
        return None


def queue_targets(queue_url: str, config: TenantConfig, context: Context) -> QueueTargets:
    """Return what a queue may tell of. Raises Transient."""
    profiles = [b for b in config.buckets.values() if b.events_queue == queue_url]
    with read_transaction(context.engine) as connection:
        former = [
            replace(profile, bucket=place.bucket, endpoint=place.endpoint)
            for profile in profiles
            for place in bucket_history(connection, profile.name, config)
        ]
    # Storage of a former bucket is asked only where the credentials are known to belong.
    endpoints = {(profile.name, profile.endpoint) for profile in profiles}
    asked = [bucket for bucket in former if (bucket.name, bucket.endpoint) in endpoints]
    return QueueTargets(_accesses([*profiles, *asked], config), _names(profiles), _names(former))


def _names(buckets: Iterable[Bucket]) -> _Names:
    found: defaultdict[str, frozenset[str]] = defaultdict(frozenset)
    for bucket in buckets:
        found[bucket.bucket] |= {storage_name(bucket)}
    return dict(found)


def _accesses(
    profiles: Iterable[Bucket], config: TenantConfig
) -> Mapping[tuple[str, str], TenantAccess]:
    found: dict[tuple[str, str], TenantAccess] = {}
    for profile in profiles:
        for tenant in config.tenants.values():
            policy = tenant.policies.get(profile.name)
            if policy is None or not set(policy.kinds) & set(SLOT_KINDS):
                continue
            for prefix in policy.prefixes:
                name = storage_name(profile), prefix
                found.setdefault(name, TenantAccess(profile, tenant, policy))
    return found
