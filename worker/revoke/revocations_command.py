"""Lists revocations."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import click
from sqlalchemy import Connection, Row, select

from models import Denial, Revocation
from worker.shared.output import first_page_options, print_list

_REVOCATIONS = select(
    *(Revocation.revoked_at.label("at"), Revocation.tenant, Revocation.revoked_by),
    *(Revocation.reason, Revocation.target_kind.label("kind"), Revocation.target),
    *(Revocation.bucket, Revocation.grants, Revocation.lapses_at.label("until")),
    Revocation.revocation_id.label("statements"),
).order_by(Revocation.revoked_at.desc(), Revocation.tenant)


def _with_statements(
    connection: Connection, rows: Sequence[Row[*tuple[Any, ...]]]
) -> Iterator[tuple[Any, ...]]:
    """Yield rows with the buckets whose policies have a statement, instead of their id."""
    statements: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    denials = select(Denial.revocation_id, Denial.storage).order_by(Denial.storage)
    for revocation_id, storage in connection.execute(denials):
        statements[revocation_id] += (storage,)
    return ((*row[:-1], statements[row[-1]]) for row in rows)


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
    print_list(_REVOCATIONS, options, complete=_with_statements)
