"""The ways to end live grants, and what each would end: the blast radius of a revocation."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, NamedTuple

from valetkey.signing.sigv4 import FILENAME_VARIABLE
from worker.revoke.revocation_targets import LiveGrant, Target
from worker.rules.grant_kinds import KINDS
from worker.rules.issued_grants import storage_name
from worker.rules.tenant_config import Bucket, TenantConfig

MAX_KEYS = 150
"""The number of single keys that a statement may name: more do not fit into a bucket's policy."""


class DeniedObjects(NamedTuple):
    """Object keys, and prefixes of object keys."""

    keys: frozenset[str] = frozenset()
    prefixes: tuple[str, ...] = ()

    def include(self, object_key: str) -> bool:
        """Return whether the key of a grant is denied. That of a form may end in ${filename}."""
        return object_key in self.keys or object_key.startswith(self.prefixes)


def denied_objects(
    target: Target, targeted: Sequence[LiveGrant], config: TenantConfig
) -> DeniedObjects:
    """Return the objects of targeted grants of one bucket: all of them are included.

    A tenant's are denied by the prefixes of its policy, as far as the grants are under them: the
    policy may have allowed others when they were issued.
    """
    if target.kind == "prefix":
        return DeniedObjects(prefixes=(target.value,))
    prefixes = {
        grant.object_key.removesuffix(FILENAME_VARIABLE)  # its client chooses the rest of the key
        for grant in targeted
        if grant.kind == "upload" and grant.object_key.endswith(FILENAME_VARIABLE)
    }
    if target.kind == "tenant":
        prefixes.update(_policy_prefixes(targeted, config))
    below = tuple(prefixes)
    rest = frozenset(
        grant.object_key for grant in targeted if not grant.object_key.startswith(below)
    )
    if target.kind == "tenant" and len(rest) > MAX_KEYS:
        folders = _common_folders(rest)
        if "" not in folders:  # it would be the whole bucket
            prefixes, rest = prefixes | folders, frozenset()
    return DeniedObjects(rest, tuple(sorted(prefixes)))


def _policy_prefixes(targeted: Iterable[LiveGrant], config: TenantConfig) -> Iterable[str]:
    for grant in targeted:
        access = config.find_access(grant.tenant, grant.bucket)
        for prefix in access.policy.prefixes if access else ():
            if grant.object_key.startswith(prefix):
                yield prefix


def _common_folders(keys: Iterable[str]) -> set[str]:
    """Return the folders that contain these keys, the longest ones that are few enough."""
    folders = {_folder(key) for key in keys}
    while len(folders) > MAX_KEYS:
        depth = max(folder.count("/") for folder in folders)
        folders = {_parent(each) if each.count("/") == depth else each for each in folders}
    return {each for each in folders if _parent(each) not in folders or not each}


def _folder(key: str) -> str:
    return key[: key.rfind("/") + 1]


def _parent(folder: str) -> str:
    return _folder(folder.removesuffix("/"))


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
    """The objects and actions that a statement denies in the bucket of a profile.

    host is that in the links of the profile.
    """

    profile: Bucket
    objects: DeniedObjects
    actions: frozenset[str]
    host: str | None = None
    is_aws: bool = False


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
    for storage, grants in _group_by(targeted, lambda grant: names.get(grant.bucket)):
        objects = denied_objects(target, grants, config)
        actions = frozenset().union(*(KINDS[grant.kind].s3_actions for grant in grants)) - _HARMLESS
        ended = [
            grant
            for grant in live
            if names.get(grant.bucket) == storage
            and objects.include(grant.object_key)
            and KINDS[grant.kind].s3_actions & actions
        ]
        profile = config.buckets[grants[0].bucket]
        yield Denial(
            name="deny",
            where=storage,
            **_effect(grants, ended),
            problem=_denial_problem(profile, objects.keys),
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
    for role_arn, grants in _group_by(targeted, lambda grant: _role_of(grant, config)):
        ended = [grant for grant in live if _role_of(grant, config) == role_arn]
        yield Lever(
            name="end_sessions",
            where=role_arn,
            **_effect(grants, ended),
            profile=config.buckets[grants[0].bucket],
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
    for access_key, grants in _group_by(targeted, lambda grant: grant.access_key or None):
        ended = [grant for grant in live if grant.access_key == access_key]
        manual = f"aws iam update-access-key --access-key-id {access_key} --status Inactive"
        problem = "workers sign with it: give them other credentials first"
        if is_temporary := _is_temporary(access_key):
            problem = "the key of a session cannot be disabled: end the sessions instead"
        yield Lever(
            name="disable_access_key",
            where=access_key,
            **_effect(grants, ended),
            problem=problem,
            manual=None if is_temporary else manual,
        )


def _group_by(
    grants: Iterable[LiveGrant], name_of: Callable[[LiveGrant], str | None]
) -> list[tuple[str, list[LiveGrant]]]:
    groups: dict[str, list[LiveGrant]] = {}
    for grant in grants:
        if (name := name_of(grant)) is not None:
            groups.setdefault(name, []).append(grant)
    return sorted(groups.items())


def _effect(grants: Sequence[LiveGrant], ended: Sequence[LiveGrant]) -> dict[str, Any]:
    """Return the fields of a lever that ends targeted grants, and maybe others among ended."""
    ids = frozenset(grant.full_id for grant in grants)
    return {
        "ends": _count(grants),
        "others": _count(grant for grant in ended if grant.full_id not in ids),
        "lapses_at": max(grant.expires_at for grant in [*ended, *grants]),
        "targets": ids,
    }


def _count(grants: Iterable[LiveGrant]) -> Mapping[str, int]:
    return dict(Counter(grant.tenant for grant in grants))
