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
    ids = find_tenant_ids(connection, tenant)
    # An equation lets the database read an index in order.
    is_in: ColumnElement[bool] = column == ids[0] if len(ids) == 1 else column.in_(ids)
    return is_in


def find_tenant_ids(connection: Connection, tenant: str) -> list[str]:
    """Return the ids that a tenant's name or id selects, as in is_of_tenant."""
    if tenant.endswith(_FIRST):
        return [first_id(tenant)]
    query = select(TenantIdentity.id).where(TenantIdentity.name == tenant)
    return sorted({tenant, *connection.scalars(query)})
