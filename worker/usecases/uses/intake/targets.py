"""The buckets whose events a queue may tell, and the tenants that store objects in them."""

from collections.abc import Mapping
from typing import NamedTuple

from worker.context import Context
from worker.core.tenants.config import Bucket, TenantAccess, TenantConfig
from worker.core.uses.used_grant import SLOT_KINDS
from worker.db.engine import read_transaction
from worker.db.uses.used_grants import real_buckets


class QueueTargets(NamedTuple):
    """What one queue may tell of.

    buckets are the real ones to which the profiles that name the queue lead or have led: events of
    others are not believed, because whoever writes to the queue may be someone else. accesses are
    those of tenants that store objects, by real bucket and prefix.
    """

    buckets: frozenset[str]
    accesses: Mapping[tuple[str, str], TenantAccess]

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
        names = (real_buckets(connection, profile.name, config) for profile in profiles)
        buckets = frozenset[str]().union(*names)
    return QueueTargets(buckets, _accesses(profiles, config))


def _accesses(
    profiles: list[Bucket], config: TenantConfig
) -> Mapping[tuple[str, str], TenantAccess]:
    found: dict[tuple[str, str], TenantAccess] = {}
    for profile in profiles:
        for tenant in config.tenants.values():
            policy = tenant.policies.get(profile.name)
            if policy is None or not set(policy.kinds) & set(SLOT_KINDS):
                continue
            for prefix in policy.prefixes:
                found.setdefault((profile.bucket, prefix), TenantAccess(profile, tenant, policy))
    return found
