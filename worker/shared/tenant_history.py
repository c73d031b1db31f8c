"""Selects the rows of a tenant's ids."""

from collections.abc import Iterable
from typing import Any, Literal

import click
from sqlalchemy import ColumnElement, Connection, select

from models import Batch, Cancellation, TenantIdentity
from worker.shared.pages import did_you_mean, similar_name

_FIRST_ID = "~1"

FilterField = Literal["tenant", "bucket", "kind", "decision", "state", "signed_by"]

_NOUNS: dict[FilterField, str] = {
    "tenant": "tenant",
    "bucket": "bucket profile or bucket",
    "kind": "kind",
    "decision": "decision or refusal code",
    "state": "state",
    "signed_by": "signing key",
}
_LISTED = frozenset({"kind", "state"})  # fields with so few names that an error lists them


class UnknownName(LookupError):
    """Nothing has this name. suggestion is the most similar known name, or None."""

    def __init__(self, field: FilterField, name: str, known_names: Iterable[str]) -> None:
        self.field = field
        self.name = name
        known_names = tuple(known_names)
        self.suggestion = similar_name(name, known_names)
        listed = f"choose {', '.join(known_names)}" if field in _LISTED else ""
        hint = did_you_mean(name, known_names, listed)
        super().__init__(f"there is no {_NOUNS[field]} {name!r}{hint}")


def first_id(tenant: str) -> str:
    """Return the id that NAME~1 stands for, which is the name; any other text stays."""
    return tenant.removesuffix(_FIRST_ID)


def is_of_tenant(connection: Connection, column: Any, tenant: str) -> ColumnElement[bool]:
    """Return the condition that a column of tenant ids has one of a tenant's.

    A name selects all tenants that had it, one after the other. An id like NAME~2 selects one of
    them, and NAME~1 the first one, whose id is the name.
    """
    ids = find_tenant_ids(connection, tenant)
    # An equation lets the database read an index in order.
    is_in: ColumnElement[bool] = column == ids[0] if len(ids) == 1 else column.in_(ids)
    return is_in


def find_tenant_ids(connection: Connection, tenant: str) -> list[str]:
    """Return the ids that a tenant's name or id selects, as in is_of_tenant."""
    if tenant.endswith(_FIRST_ID):
        return [first_id(tenant)]
    query = select(TenantIdentity.id).where(TenantIdentity.name == tenant)
    return sorted({tenant, *connection.scalars(query)})


def check_tenant(connection: Connection, tenant: str) -> None:
    """Raise UnknownName unless there is or was a tenant of this name or id."""
    rows = connection.execute(select(TenantIdentity.id, TenantIdentity.name)).all()
    known_names = {name for row in rows for name in row}
    if first_id(tenant) in known_names:
        return
    for column in (Batch.tenant, Cancellation.tenant):
        query = select(1).where(is_of_tenant(connection, column, tenant))
        if connection.execute(query.limit(1)).first() is not None:
            return
    raise UnknownName("tenant", tenant, known_names)


def check_tenant_option(connection: Connection, tenant: str | None) -> None:
    """Raise click.BadParameter if --tenant names a tenant that never was, with a similar name."""
    if tenant is None:
        return
    try:
        check_tenant(connection, tenant)
    except UnknownName as error:
        raise click.BadParameter(str(error), param_hint="--tenant") from None
