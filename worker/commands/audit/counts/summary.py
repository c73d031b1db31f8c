"""Counts issued and refused items."""

from typing import Any

import click

from worker.commands.audit.filter_options import note_empty_result
from worker.commands.database import check_tenant_option, open_database
from worker.commands.options import (
    format_options,
    refuse_empty_range,
    since_option,
    tenant_option,
    until_option,
)
from worker.commands.output import print_rows
from worker.db.audit import grants
from worker.db.audit.filters import GrantFilter
from worker.db.audit.grants import AuditCount
from worker.db.engine import read_transaction


@click.command("summary")
@tenant_option
@since_option
@until_option
@format_options
def summary(*, output_format: Any, **filters: Any) -> None:
    """Count issued and refused items by tenant and kind.

    \b
    Example:
      python -m worker audit summary --since 1d
    """
    refuse_empty_range(filters["since"], filters["until"])
    with open_database(read_transaction) as connection:
        check_tenant_option(connection, filters["tenant"])
        counts = grants.count_items_by_kind(connection, GrantFilter(**filters))
    if not counts:
        note_empty_result()
    print_rows(AuditCount._fields, counts, output_format)
