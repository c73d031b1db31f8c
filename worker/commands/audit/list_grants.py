"""Lists the audit log of grants."""

from typing import Any

import click

from worker.commands.audit.filter_options import filter_options, parse_cursor, read_filter
from worker.commands.database import open_database
from worker.commands.options import format_options, limit_option
from worker.commands.output import print_page
from worker.db.audit import grants
from worker.db.audit.filters import AuditCursor
from worker.db.audit.grants import AmbiguousCursor, AuditRecord, UnknownCursor
from worker.db.engine import read_transaction


@click.command("list")
@filter_options
@limit_option
@click.option("--after", callback=parse_cursor, help="Start after the grant with this id.")
@format_options
@click.pass_context
def list_grants(
    context: click.Context,
    /,
    *,
    limit: int,
    after: AuditCursor | None,
    output_format: Any,
    **filters: Any,
) -> None:
    """List requested items, newest first: the decision is `issued` or the code of the refusal.

    \b
    Examples:
      python -m worker audit list --tenant acme --decision refused --since 1d
      python -m worker audit list --key acme/2026/11/u-1.pdf --json
      python -m worker audit list --tenant acme --signed-by billing-2026
    """
    try:
        with open_database(read_transaction) as connection:
            page = grants.read_grants(connection, read_filter(connection, filters), limit, after)
    except UnknownCursor:
        text = "the audit log has no batch with this id"
        raise click.BadParameter(text, param_hint="--after") from None
    except AmbiguousCursor:
        text = "several tenants have a batch with this id: name one, as in TENANT/BATCH.NUMBER"
        raise click.BadParameter(text, param_hint="--after") from None
    print_page(context, AuditRecord._fields, page, grants.record_cursor, output_format)
