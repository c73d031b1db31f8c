"""Finds the trees that --tenant names."""

import click
from sqlalchemy import Connection

from worker.db.audit.selection.similar_names import did_you_mean
from worker.db.tree.checkpoints import known_names, tenant_ids_of


def find_trees(connection: Connection, tenant: str, option: str = "--tenant") -> list[str]:
    """Return the ids with a tree that a name or id selects.

    Raises click.BadParameter, which names the option, if there is none.
    """
    tenant_ids = tenant_ids_of(connection, tenant)
    if not tenant_ids:
        names = known_names(connection)
        if tenant in names:
            text = f"nothing was recorded for {tenant!r} yet"
        else:
            text = f"there is no tenant {tenant!r}{did_you_mean(tenant, names)}"
        raise click.BadParameter(text, param_hint=option)
    return tenant_ids
