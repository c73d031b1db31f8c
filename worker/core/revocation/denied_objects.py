"""The objects that a statement names so that it denies all grants of a target."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from worker.core.revocation.targets import LiveGrant, Target
from worker.core.signing.forms import FILENAME_VARIABLE
from worker.core.tenants.config import TenantConfig

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
    prefixes = {_free_prefix(grant) for grant in targeted if _has_free_name(grant)}
    if target.kind == "tenant":
        prefixes.update(_policy_prefixes(targeted, config))
    rest = _not_below(prefixes, (grant.object_key for grant in targeted))
    if target.kind == "tenant" and len(rest) > MAX_KEYS:
        folders = _common_folders(rest)
        if "" not in folders:  # it would be the whole bucket
            prefixes, rest = prefixes | folders, frozenset()
    return DeniedObjects(rest, tuple(sorted(prefixes)))


def _has_free_name(grant: LiveGrant) -> bool:
    return grant.kind == "upload" and grant.object_key.endswith(FILENAME_VARIABLE)


def _free_prefix(grant: LiveGrant) -> str:
    # Its client chooses the rest of the key.
    return grant.object_key.removesuffix(FILENAME_VARIABLE)


def _policy_prefixes(targeted: Iterable[LiveGrant], config: TenantConfig) -> Iterable[str]:
    for grant in targeted:
        access = config.find_access(grant.tenant, grant.bucket)
        for prefix in access.policy.prefixes if access else ():
            if grant.object_key.startswith(prefix):
                yield prefix


def _not_below(prefixes: Collection[str], keys: Iterable[str]) -> frozenset[str]:
    below = tuple(prefixes)
    return frozenset(key for key in keys if not key.startswith(below))


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
