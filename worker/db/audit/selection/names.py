"""Checks that the names in a filter exist, so that a misspelled one is not an empty result.

A name is known if the config has it now, if it ever had it, or if rows of requests have it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, get_args

from sqlalchemy import Connection, Select, select

from models import Batch, Bucket, Chunk, ConfigChange, TenantKey
from worker.db.audit.filters import ISSUED, REFUSED, GrantFilter
from worker.db.audit.selection.states import STATES
from worker.db.audit.selection.tenant_filter import FilterField, UnknownName, check_tenant


def _kinds() -> tuple[str, ...]:
    from valetkey.wire.terms import Kind  # noqa: PLC0415 - imports pydantic

    return get_args(Kind)


def _codes() -> list[str]:
    from valetkey.wire.refusals import Code  # noqa: PLC0415 - imports pydantic

    return [code.value for code in Code]


def _check_listed(field: FilterField, name: str, known_names: Iterable[str]) -> None:
    known_names = tuple(known_names)
    if name not in known_names:
        raise UnknownName(field, name, known_names)


def resolve_names(connection: Connection, grant_filter: GrantFilter) -> GrantFilter:
    """Check all names of a filter, and replace real buckets by the profiles that use them.

    Raises UnknownName.
    """
    if grant_filter.kind is not None:
        _check_listed("kind", grant_filter.kind, _kinds())
    for decision in grant_filter.decisions:
        if decision not in {ISSUED, REFUSED}:
            _check_listed("decision", decision, (ISSUED, REFUSED, *_codes()))
    for state in grant_filter.states:
        _check_listed("state", state, STATES)
    if grant_filter.tenant is not None:
        check_tenant(connection, grant_filter.tenant)
    if grant_filter.signed_by:
        _check_signing_key(connection, grant_filter.signed_by)
    profiles = {name for text in grant_filter.buckets for name in find_profiles(connection, text)}
    return replace(grant_filter, buckets=tuple(sorted(profiles)))


def find_profiles(connection: Connection, bucket: str) -> tuple[str, ...]:
    """Return the bucket profile of this name, and those that use, or used, a real bucket of it.

    Raises UnknownName if there are none.
    """
    configured = connection.execute(select(Bucket.name, Bucket.bucket)).all()
    pairs = {(row.name, row.bucket) for row in configured} | set(_former_profiles(connection))
    profiles = {profile for profile, real_bucket in pairs if bucket in {profile, real_bucket}}
    if profiles:
        return tuple(sorted(profiles))
    if _exists(connection, select(1).where(Batch.bucket == bucket)):
        return (bucket,)
    raise UnknownName("bucket", bucket, {name for pair in pairs for name in pair})


def _former_profiles(connection: Connection) -> Iterator[tuple[str, str]]:
    query = select(ConfigChange.path, ConfigChange.before, ConfigChange.after)
    for row in connection.execute(query.where(ConfigChange.path.like("buckets.%.bucket"))):
        _, profile, _ = row.path.split(".", 2)
        yield from ((profile, str(value)) for value in (row.before, row.after) if value)


def _check_signing_key(connection: Connection, name: str) -> None:
    known_names = set(connection.scalars(select(TenantKey.name)))
    paths = select(ConfigChange.path).where(ConfigChange.path.like("tenants.%.keys.%.sign"))
    known_names |= {path.split(".")[3] for path in connection.scalars(paths)}
    if name in known_names:
        return
    if not _exists(connection, select(1).where(Chunk.signing_key == name)):
        raise UnknownName("signed_by", name, known_names)


def _exists(connection: Connection, query: Select[Any]) -> bool:
    return connection.execute(query.limit(1)).first() is not None
