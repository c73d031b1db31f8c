"""Lists cancelled batches."""

from datetime import UTC
from typing import Any

import click

from worker.commands.database import check_tenant_option, open_database
from worker.commands.options import (
    format_options,
    limit_option,
    refuse_empty_range,
    since_option,
    tenant_option,
    zone_option,
)
from worker.commands.output import print_first_page
from worker.db.audit import cancellations
from worker.db.engine import read_transaction


@click.command("cancellations")
@tenant_option
@since_option
@zone_option
@limit_option
@format_options
def list_cancellations(*, output_format: Any, limit: int, zone: Any, **filters: Any) -> None:
    """List cancelled batches, newest first, with who cancelled them.

    \b
    Example:
      python -m worker audit cancellations --tenant acme
    """
    refuse_empty_range(filters["since"], None)
    with open_database(read_transaction) as connection:
        check_tenant_option(connection, filters["tenant"])
        page = cancellations.read_cancellations(connection, limit, **filters)
    print_first_page(cancellations.CancellationRecord._fields, page, output_format, zone or UTC)
