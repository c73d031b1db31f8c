"""Finds the trees that --tenant names."""

from difflib import get_close_matches

import click
from sqlalchemy import Connection

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
            similar = get_close_matches(tenant, names, n=1)
            text = f"the audit log has no tenant {tenant!r}"
            text += f". Did you mean {similar[0]!r}?" if similar else ""
        raise click.BadParameter(text, param_hint=option)
    return tenant_ids
