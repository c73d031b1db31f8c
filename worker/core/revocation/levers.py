"""The ways to end live grants, and what each would end: the blast radius of a revocation."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from worker.core.kinds.registry import KINDS
from worker.core.kinds.role_session import role_session
from worker.core.revocation.denied_objects import MAX_KEYS, DeniedObjects, denied_objects
from worker.core.revocation.targets import LiveGrant, Target
from worker.core.tenants.config import Bucket, TenantConfig
from worker.core.tenants.storage_names import storage_name

LeverName = Literal["deny", "end_sessions", "disable_access_key"]


@dataclass(frozen=True, slots=True)
class Denial:
    """The objects and actions that a statement denies in the bucket of a profile.

    storage is the unique name of the real bucket.
    """

    profile: Bucket
    storage: str
    objects: DeniedObjects
    actions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Lever:
    """One way to end grants, in one place: a real bucket, a role's session or an access key.

    ends are the targeted grants that it would end, by tenant id, and others those that it would end
    as well, although nobody asked for that. problem says why this command cannot do it, and manual
    what an operator does instead.
    """

    name: LeverName
    where: str
    ends: Mapping[str, int]
    others: Mapping[str, int]
    lapses_at: datetime
    problem: str | None = None
    manual: str | None = None
    denial: Denial | None = None


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
) -> Iterable[Lever]:
    names = {profile: storage_name(bucket) for profile, bucket in config.buckets.items()}
    by_storage: dict[str, list[LiveGrant]] = {}
    for grant in targeted:
        if grant.bucket in names:
            by_storage.setdefault(names[grant.bucket], []).append(grant)
    for storage, grants in sorted(by_storage.items()):
        beside = [grant for grant in live if names.get(grant.bucket) == storage]
        objects = denied_objects(target, grants, config)
        actions = frozenset().union(*(KINDS[grant.kind].s3_actions for grant in grants))
        profile = config.buckets[grants[0].bucket]
        yield _denial(Denial(profile, storage, objects, actions), grants, beside)


def _denial(denial: Denial, targeted: Sequence[LiveGrant], live: Sequence[LiveGrant]) -> Lever:
    ended = [
        grant
        for grant in live
        if denial.objects.include(grant.object_key)
        and KINDS[grant.kind].s3_actions & denial.actions
    ]
    return Lever(
        name="deny",
        where=denial.storage,
        ends=_count(grant for grant in targeted if denial.objects.include(grant.object_key)),
        others=_count(_without(ended, targeted)),
        lapses_at=max(grant.expires_at for grant in [*ended, *targeted]),
        problem=_denial_problem(denial.profile, denial.objects.keys),
        denial=denial,
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
    sessions: dict[tuple[str, str], list[LiveGrant]] = {}
    for grant in targeted:
        if (session := _session_of(grant, config)) is not None:
            sessions.setdefault(session, []).append(grant)
    for session, grants in sorted(sessions.items()):
        ended = [grant for grant in live if _session_of(grant, config) == session]
        yield Lever(
            name="end_sessions",
            where=f"{session[1]} of {session[0]}",
            ends=_count(grants),
            others=_count(_without(ended, grants)),
            lapses_at=max(grant.expires_at for grant in [*ended, *grants]),
            problem="the workers would go on to sign with the same sessions until these end",
            manual="in IAM, revoke the role's active sessions, and restart the workers",
        )


def _session_of(grant: LiveGrant, config: TenantConfig) -> tuple[str, str] | None:
    access = config.find_access(grant.tenant, grant.bucket)
    if access is None or access.bucket.role_arn is None:
        return None
    bucket, tenant, policy = access
    role = access.bucket.role_arn
    return role, role_session(role, bucket, tenant.name, policy.prefixes).name


def _access_keys(targeted: Sequence[LiveGrant], live: Sequence[LiveGrant]) -> Iterable[Lever]:
    for access_key in sorted({grant.access_key for grant in targeted if grant.access_key}):
        grants = [grant for grant in targeted if grant.access_key == access_key]
        ended = [grant for grant in live if grant.access_key == access_key]
        is_temporary = access_key.startswith("ASIA")  # AWS: reference_identifiers.html
        manual = f"aws iam update-access-key --access-key-id {access_key} --status Inactive"
        yield Lever(
            name="disable_access_key",
            where=access_key,
            ends=_count(grants),
            others=_count(_without(ended, grants)),
            lapses_at=max(grant.expires_at for grant in [*ended, *grants]),
            problem="workers sign with it: give them other credentials first",
            manual=None if is_temporary else manual,
        )


def _without(grants: Iterable[LiveGrant], excluded: Iterable[LiveGrant]) -> list[LiveGrant]:
    ids = {(grant.tenant, grant.id) for grant in excluded}
    return [grant for grant in grants if (grant.tenant, grant.id) not in ids]


def _count(grants: Iterable[LiveGrant]) -> Mapping[str, int]:
    return dict(Counter(grant.tenant for grant in grants))
