"""The ways to end live grants, and what each would end: the blast radius of a revocation."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from worker.core.grant_kinds import KINDS
from worker.core.issued_grants import storage_name
from worker.core.revocation_targets import LiveGrant, Target
from worker.core.tenant_config import Bucket, TenantConfig
from worker.revoke.policy_document import MAX_KEYS, DeniedObjects, denied_objects

# It discards parts. Storage other than AWS would refuse it to the service as well, which has to.
_HARMLESS = {"s3:AbortMultipartUpload"}

LeverName = Literal["deny", "end_sessions", "disable_access_key"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """One way to end grants, in one place: a real bucket, a role or an access key.

    ends are the targeted grants that it would end, by tenant id, and others those that it would end
    as well, although nobody asked for that. problem says why this command cannot do it, and manual
    what an operator does instead. targets are the tenant ids and grant ids of the targeted ones,
    and profile is a bucket profile with the bucket or role.
    """

    name: LeverName
    where: str
    ends: Mapping[str, int]
    others: Mapping[str, int]
    lapses_at: datetime
    problem: str | None = None
    manual: str | None = None
    profile: Bucket | None = None
    targets: frozenset[tuple[str, str]] = field(default=frozenset(), repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Denial(Lever):
    """The objects and actions that a statement denies in the bucket of a profile."""

    profile: Bucket
    objects: DeniedObjects
    actions: frozenset[str]


def plan_levers(
    target: Target, targeted: Sequence[LiveGrant], live: Sequence[LiveGrant], config: TenantConfig
) -> list[Lever]:
    """Return the levers that end targeted grants, the one that ends the fewest others first.

    live are all live grants of the buckets, roles and access keys of the targeted ones.
    """
    levers = [
        *_denials(target, targeted, live, config),
        *_sessions(targeted, live, config),
        *_access_keys(targeted, live),
    ]
    return sorted(levers, key=lambda lever: sum(lever.others.values()))


def _denials(
    target: Target, targeted: Sequence[LiveGrant], live: Sequence[LiveGrant], config: TenantConfig
) -> Iterable[Denial]:
    names = {profile: storage_name(bucket) for profile, bucket in config.buckets.items()}
    by_storage: dict[str, list[LiveGrant]] = {}
    for grant in targeted:
        if grant.bucket in names:
            by_storage.setdefault(names[grant.bucket], []).append(grant)
    for storage, grants in sorted(by_storage.items()):
        objects = denied_objects(target, grants, config)
        actions = frozenset().union(*(KINDS[grant.kind].s3_actions for grant in grants)) - _HARMLESS
        ended = [
            grant
            for grant in live
            if names.get(grant.bucket) == storage
            and objects.include(grant.object_key)
            and KINDS[grant.kind].s3_actions & actions
        ]
        denied = [grant for grant in grants if objects.include(grant.object_key)]
        profile = config.buckets[grants[0].bucket]
        yield Denial(
            name="deny",
            where=storage,
            ends=_count(denied),
            others=_count(_without(ended, grants)),
            lapses_at=max(grant.expires_at for grant in [*ended, *grants]),
            problem=_denial_problem(profile, objects.keys),
            targets=_ids(denied),
            profile=profile,
            objects=objects,
            actions=actions,
        )


def _denial_problem(bucket: Bucket, keys: Collection[str]) -> str | None:
    if bucket.provider == "r2":
        return "R2 has no bucket policies"
    if bucket.bucket.startswith("arn:"):
        return "an access point has a policy of its own kind, which this command does not change"
    if len(keys) > MAX_KEYS:
        return f"{len(keys):,} keys do not fit into a bucket's policy: revoke a prefix or tenant"
    return None


def _sessions(
    targeted: Sequence[LiveGrant], live: Sequence[LiveGrant], config: TenantConfig
) -> Iterable[Lever]:
    """Yield a lever for each role: IAM cannot end the sessions of one tenant alone."""
    by_role: dict[str, list[LiveGrant]] = {}
    for grant in targeted:
        if (role_arn := _role_of(grant, config)) is not None:
            by_role.setdefault(role_arn, []).append(grant)
    for role_arn, grants in sorted(by_role.items()):
        ended = [grant for grant in live if _role_of(grant, config) == role_arn]
        yield Lever(
            name="end_sessions",
            where=role_arn,
            ends=_count(grants),
            others=_count(_without(ended, grants)),
            lapses_at=max(grant.expires_at for grant in [*ended, *grants]),
            profile=config.buckets[grants[0].bucket],
            targets=_ids(grants),
        )


def _role_of(grant: LiveGrant, config: TenantConfig) -> str | None:
    """Return the role whose session signed a grant, as far as the profile still has it."""
    profile = config.buckets.get(grant.bucket)
    if profile is None or (grant.access_key is not None and not _is_temporary(grant.access_key)):
        return None
    return profile.role_arn


def _is_temporary(access_key: str) -> bool:
    return access_key.startswith("ASIA")  # AWS: reference_identifiers.html


def _access_keys(targeted: Sequence[LiveGrant], live: Sequence[LiveGrant]) -> Iterable[Lever]:
    for access_key in sorted({grant.access_key for grant in targeted if grant.access_key}):
        grants = [grant for grant in targeted if grant.access_key == access_key]
        ended = [grant for grant in live if grant.access_key == access_key]
        manual = f"aws iam update-access-key --access-key-id {access_key} --status Inactive"
        problem = "workers sign with it: give them other credentials first"
        if is_temporary := _is_temporary(access_key):
            problem = "the key of a session cannot be disabled: end the sessions instead"
        yield Lever(
            name="disable_access_key",
            where=access_key,
            ends=_count(grants),
            others=_count(_without(ended, grants)),
            lapses_at=max(grant.expires_at for grant in [*ended, *grants]),
            problem=problem,
            manual=None if is_temporary else manual,
        )


def _without(grants: Iterable[LiveGrant], excluded: Iterable[LiveGrant]) -> list[LiveGrant]:
    ids = _ids(excluded)
    return [grant for grant in grants if grant.full_id not in ids]


def _ids(grants: Iterable[LiveGrant]) -> frozenset[tuple[str, str]]:
    return frozenset(grant.full_id for grant in grants)


def _count(grants: Iterable[LiveGrant]) -> Mapping[str, int]:
    return dict(Counter(grant.tenant for grant in grants))
