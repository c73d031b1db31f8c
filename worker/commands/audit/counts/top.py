"""Lists the most active requesters, keys, tenants and others."""

from typing import Any

import click

from worker.commands.audit.counts.count import note_pruned_counts, print_counts
from worker.commands.audit.filter_options import filter_options, read_filter
from worker.commands.database import open_database
from worker.commands.options import format_options, limit_option
from worker.db.audit.counting.columns import CountOptions, Dimension
from worker.db.audit.counting.counts import top_items
from worker.db.audit.selection.similar_names import did_you_mean
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


class _Ranking(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """A name in _DIMENSIONS, or its singular, which `audit count --by` takes."""

    name = "ranking"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in _DIMENSIONS:
            return value
        if f"{value}s" in _DIMENSIONS:
            return f"{value}s"
        hint = did_you_mean(value, _DIMENSIONS, f"choose from {', '.join(_DIMENSIONS)}")
        return self.fail(f"there is no list of {value!r}{hint}", param, ctx)


@click.command("top")
@click.argument("what", metavar="COLUMN", type=_Ranking())
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
    """List the requesters, keys, tenants or others with the most items.

    COLUMN is one of requesters, recipients, keys, tenants, buckets, kinds and codes. Codes are the
    reasons of refusals. The numbers are those of `audit count`.

    \b
    Examples:
      python -m worker audit top requesters --since 7d --limit 10
      python -m worker audit top keys --tenant acme --sort refused
    """
    dimension = _DIMENSIONS[what]
    with open_database(read_transaction) as connection:
        grant_filter = read_filter(connection, filters)
        counts = top_items(connection, grant_filter, dimension, limit, sort)
        note_pruned_counts(connection, grant_filter, CountOptions((dimension,)))
    print_counts((dimension,), counts, output_format, with_total=False)
