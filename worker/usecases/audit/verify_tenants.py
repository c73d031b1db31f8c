"""Finds the ids of a tenant in a log that is only read."""

from difflib import get_close_matches

from worker.db.tree.log_readers import LogReader

_FIRST = "~1"


class UnknownTenant(Exception):
    """No tenant has, or had, this name."""


def tenant_ids(reader: LogReader, name: str) -> tuple[str, ...]:
    """Return the ids of all tenants that had a name, or the one with this id.

    NAME~1 is the first tenant of a name, whose id is the name. Raises UnknownTenant.
    """
    rows = reader.fetch("SELECT id, name FROM tenant_identities")
    ids = {id_ for id_, _ in rows}
    if name.endswith(_FIRST) and (first := name.removesuffix(_FIRST)) in ids:
        return (first,)
    found = {id_ for id_, tenant in rows if name in {id_, tenant}}
    if found:
        return tuple(sorted(found))
    close = get_close_matches(name, {*ids, *(tenant for _, tenant in rows)}, 1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise UnknownTenant(f"there is no tenant {name!r}.{hint}")
