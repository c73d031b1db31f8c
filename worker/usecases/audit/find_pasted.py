"""Finds the grants of a pasted link, form or id, and compares them with it."""

from typing import NamedTuple

from sqlalchemy import Connection

from worker.core.links.pasted_grant import PastedGrant
from worker.core.links.verdicts import AuditedGrant, Verdict, judge
from worker.db.audit.pasted import find_named, find_signed


class JudgedGrant(NamedTuple):
    """A grant that a text names, the verdict on the text, and the parts in which it differs."""

    grant: AuditedGrant
    verdict: Verdict
    differences: list[str]


def find_pasted(connection: Connection, pasted: PastedGrant) -> list[JudgedGrant]:
    """Return the grants that a text names; several only if tenants chose the same batch id."""
    judged = [JudgedGrant(grant, *judge(pasted, grant)) for grant in _find(connection, pasted)]
    # Tenants choose the ids of their batches. If several chose the same, the signature decides.
    return [each for each in judged if each.verdict in {"genuine", "altered"}] or judged


def _find(connection: Connection, pasted: PastedGrant) -> list[AuditedGrant]:
    if pasted.name is not None:
        return find_named(connection, pasted.name)
    if not pasted.digests or pasted.issued_at is None:
        return []
    found = find_signed(connection, pasted.digests, pasted.issued_at)
    return [] if found is None else [found]
