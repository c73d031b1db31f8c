"""Lists the most active requesters, keys, tenants and others."""

from typing import Any

import click

from worker.commands.audit.count import print_counts
from worker.commands.audit.filter_options import filter_options, read_filter
from worker.commands.database import open_database
from worker.commands.options import format_options, limit_option
from worker.db.audit.count_queries import Dimension
from worker.db.audit.counts import top_items
from worker.db.engine import read_transaction

_DIMENSIONS: dict[str, Dimension] = {
    "requesters": "requester",
    "recipients": "recipient",
    "keys": "key",
    "tenants": "tenant",
    "buckets": "bucket",
    "kinds": "kind",
    "codes": "code",
}


@click.command("top")
@click.argument("what", type=click.Choice(list(_DIMENSIONS)))
@click.option(
    "--sort",
    type=click.Choice(["total", "issued", "refused", "bytes"]),
    default="total",
    show_default=True,
    help="The number by which to sort, largest first.",
)
@filter_options
@limit_option
@format_options
def top(*, what: str, sort: Any, limit: int, output_format: Any, **filters: Any) -> None:
    """List the requesters, recipients, keys, tenants, buckets, kinds or codes with the most items.

    Codes are the reasons of refusals. The numbers are those of `audit count`.

    \b
    Examples:
      python -m worker audit top requesters --since 7d --limit 10
      python -m worker audit top keys --tenant acme --sort refused
    """
    dimension = _DIMENSIONS[what]
    with open_database(read_transaction) as connection:
        grant_filter = read_filter(connection, filters)
        counts = top_items(connection, grant_filter, dimension, limit, sort)
    print_counts((dimension,), counts, output_format, with_total=False)
