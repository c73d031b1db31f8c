"""Finds the ids of a tenant in a log that is only read."""

from worker.db.audit.selection.similar_names import did_you_mean
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
    known_names = {*ids, *(tenant for _, tenant in rows)}
    raise UnknownTenant(f"there is no tenant {name!r}{did_you_mean(name, known_names)}")
