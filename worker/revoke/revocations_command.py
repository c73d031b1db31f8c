"""Lists revocations."""

from datetime import UTC
from typing import Any

import click

from worker.base.database_engine import read_transaction
from worker.cli.command_options import (
    format_options,
    limit_option,
    refuse_empty_range,
    since_option,
    tenant_option,
    zone_option,
)
from worker.cli.database import check_tenant_option, open_database
from worker.cli.output import print_first_page
from worker.revoke.revocation_rows import RevocationRecord, read_revocations


@click.command("revocations")
@tenant_option
@since_option
@zone_option
@limit_option
@format_options
def list_revocations(*, output_format: Any, limit: int, zone: Any, **filters: Any) -> None:
    """List revocations, newest first, with who revoked what and why.

    A revocation has a row for each tenant whose grants it ended. The column until is the end of the
    last of them, and statements are the buckets whose policies still have a statement of it.

    \b
    Example:
      python -m worker audit revocations --tenant acme
    """
    refuse_empty_range(filters["since"], None)
    with open_database(read_transaction) as connection:
        check_tenant_option(connection, filters["tenant"])
        page = read_revocations(connection, limit, **filters)
    print_first_page(RevocationRecord._fields, page, output_format, zone or UTC)
