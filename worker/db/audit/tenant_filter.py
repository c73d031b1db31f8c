"""Selects the audit rows of a tenant, by its name or by its id."""

from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from models import TenantIdentity

_FIRST = "~1"


def first_id(tenant: str) -> str:
    """Return the id that NAME~1 stands for, which is the name; any other text stays."""
    return tenant.removesuffix(_FIRST)


def is_of_tenant(connection: Connection, column: Any, tenant: str) -> ColumnElement[bool]:
    """Return the condition that a column of tenant ids has one of a tenant's.

    A name selects all tenants that had it, one after the other. An id like NAME~2 selects one of
    them, and NAME~1 the first one, whose id is the name.
    """
    if tenant.endswith(_FIRST):
        is_first: ColumnElement[bool] = column == first_id(tenant)
        return is_first
    query = select(TenantIdentity.id).where(TenantIdentity.name == tenant)
    ids = {tenant, *connection.scalars(query)}
    # An equation lets the database read an index in order.
    is_in: ColumnElement[bool] = column == tenant if len(ids) == 1 else column.in_(sorted(ids))
    return is_in
