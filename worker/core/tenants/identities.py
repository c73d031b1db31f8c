"""Ids of tenants: a tenant that gets the name of a removed one gets another id."""

from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from itertools import count

from worker.core.tenants.config import TenantConfig

MAX_ID_LENGTH = 63
"""The length of the columns that contain ids; names have up to the same length."""


def assign_ids(
    before: TenantConfig, after: TenantConfig, used_ids: Collection[str], now: datetime
) -> TenantConfig:
    """Return the config `after` with the id and the creation time of each of its tenants.

    A tenant that `before` has keeps both. Any other one is new, and gets an id that is not one of
    used_ids, which are those of all existing and removed tenants.
    """
    used = set(used_ids)
    tenants = {}
    for name, tenant in after.tenants.items():
        old = before.tenants.get(name)
        id_, created_at = (_new_id(name, used), now) if old is None else (old.id, old.created_at)
        used.add(id_)
        tenants[name] = replace(tenant, id=id_, created_at=created_at)
    return replace(after, tenants=tenants)


def _new_id(name: str, used: Collection[str]) -> str:
    """Return NAME, or else the first of NAME~2, NAME~3, … that is not used.

    Names have no tilde. A long name is cut, so that the id fits into its columns.
    """
    if name not in used:
        return name
    suffixes = (f"~{number}" for number in count(2))
    ids = (f"{name[: MAX_ID_LENGTH - len(suffix)]}{suffix}" for suffix in suffixes)
    return next(id_ for id_ in ids if id_ not in used)
