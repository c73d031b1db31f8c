"""Lists revocations."""

from collections import defaultdict
from datetime import datetime
from typing import Any, NamedTuple

import click
from sqlalchemy import Connection, select

from models import Denial, Revocation
from worker.base.pages import Page, fetch_page
from worker.cli.output import first_page_options, print_first_page
from worker.ledger.tenant_history import is_of_tenant


class RevocationRecord(NamedTuple):
    """A revocation of one tenant: when, by whom and why, and what it ended.

    bucket is the bucket profile of a key or prefix. grants counts live grants, the last of which
    ends at until. statements are the names of the buckets whose policies have a statement of this
    revocation; it is removed after until.
    """

    at: datetime
    tenant: str
    revoked_by: str
    reason: str | None
    kind: str
    target: str
    bucket: str | None
    grants: int
    until: datetime
    statements: tuple[str, ...]


def _read_revocations(
    connection: Connection, limit: int, *, tenant: str | None, since: datetime | None
) -> Page[RevocationRecord]:
    """Read at most limit revocations, newest first. A filter that is None matches everything."""
    statements: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    denials = select(Denial.revocation_id, Denial.storage).order_by(Denial.storage)
    for revocation_id, storage in connection.execute(denials):
        statements[revocation_id] += (storage,)
    query = select(
        *(Revocation.revoked_at, Revocation.tenant, Revocation.revoked_by, Revocation.reason),
        *(Revocation.target_kind, Revocation.target, Revocation.bucket, Revocation.grants),
        *(Revocation.lapses_at, Revocation.revocation_id),
    )
    if tenant is not None:
        query = query.where(is_of_tenant(connection, Revocation.tenant, tenant))
    if since is not None:
        query = query.where(Revocation.revoked_at >= since)
    query = query.order_by(Revocation.revoked_at.desc(), Revocation.tenant)

    def read(row: Any) -> RevocationRecord:
        return RevocationRecord._make((*row[:-1], statements[row[-1]]))

    return fetch_page(connection, query, limit, read)


@click.command("revocations")
@first_page_options
def list_revocations(**options: Any) -> None:
    """List revocations, newest first, with who revoked what and why.

    A revocation has a row for each tenant whose grants it ended. The column until is the end of the
    last of them, and statements are the buckets whose policies still have a statement of it.

    \b
    Example:
      python -m worker audit revocations --tenant acme
    """
    print_first_page(RevocationRecord._fields, _read_revocations, options)
