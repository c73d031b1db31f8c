"""Lists the audit log of administration."""

from operator import attrgetter
from typing import Any

import click

from worker.commands.database import open_database
from worker.commands.options import (
    after_number_option,
    format_options,
    limit_option,
    refuse_empty_range,
    since_option,
    zone_option,
)
from worker.commands.output import print_page
from worker.core.apply.defaults import is_default
from worker.db.audit import changes
from worker.db.engine import read_transaction


@click.command("changes")
@click.option("--all", "with_defaults", is_flag=True, help="Include fields with default values.")
@since_option
@zone_option
@limit_option
@after_number_option
@format_options
@click.pass_context
def list_changes(
    context: click.Context,
    /,
    *,
    output_format: Any,
    limit: int,
    with_defaults: bool,
    zone: object,  # noqa: ARG001 - print_page reads it from the context
    **filters: Any,
) -> None:
    """List changes of tenants, buckets, policies, keys and quotas, newest first.

    Shows the account that made each change, and the command that it used. The table leaves out
    fields that a new or removed tenant, bucket, policy or key has by default; --all, --json and
    --csv list them as well.

    \b
    Example:
      python -m worker audit changes --since 7d
    """
    refuse_empty_range(filters["since"], None)
    is_unwanted = None if with_defaults or output_format is not None else _is_default
    with open_database(read_transaction) as connection:
        page = changes.read_changes(connection, limit, is_unwanted=is_unwanted, **filters)
    columns = changes.ChangeRecord._fields
    print_page(context, columns, page, attrgetter("number"), output_format)
    if page.skipped:
        click.echo(f"Default values left out: {page.skipped:,}; --all shows them.")


def _is_default(change: changes.ChangeRecord) -> bool:
    return is_default(change.path, change.before, change.after)
