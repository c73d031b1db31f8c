"""The commands that count: `audit count`, `audit summary` and `audit top`."""

from collections.abc import Iterable
from datetime import UTC
from typing import Any, cast

import click
from sqlalchemy import Connection

from valetkey.units import format_size
from worker.audit.grant_filters import (
    GrantFilter,
    filter_options,
    note_empty_result,
    note_pruned,
    parse_columns,
    read_filter,
)
from worker.audit.item_counts import (
    DIMENSIONS,
    MAX_GROUPS,
    CountOptions,
    Dimension,
    ItemCount,
    TooManyGroups,
    count_items,
    top_items,
)
from worker.base.database_engine import read_transaction
from worker.cli.database import open_database
from worker.rules.annotations import ANNOTATION_FIELDS
from worker.shared.command_options import (
    format_options,
    limit_option,
    since_option,
    tenant_option,
    until_option,
)
from worker.shared.output import print_rows
from worker.shared.pages import did_you_mean

NUMBERS = ("issued", "refused", "total", "bytes")
"""The columns of numbers that follow those of a group."""


def _parse_dimensions(
    _context: click.Context, _option: click.Parameter, text: str
) -> tuple[Dimension, ...]:
    names = parse_columns(text, DIMENSIONS, f"choose from {', '.join(DIMENSIONS)}")
    return cast("tuple[Dimension, ...]", tuple(dict.fromkeys(names)))


@click.command("count")
@click.option(
    "--by",
    metavar="COLUMNS",
    default="tenant,kind",
    show_default=True,
    callback=_parse_dimensions,
    help=f"Columns to group by, separated by commas: {', '.join(DIMENSIONS)}.",
)
@filter_options
@click.option(
    "--exact-bytes",
    is_flag=True,
    help="Count each put and multipart upload with its own size. Reads every one of them.",
)
@format_options
def count(
    *, by: tuple[Dimension, ...], exact_bytes: bool, output_format: Any, **filters: Any
) -> None:
    """Count issued and refused items by tenant, day, reason or other columns.

    `bytes` is the largest amount that the issued grants let their holders upload: for each issued
    item of an upload, put or multipart, the max_size of its request. A form takes any size up to
    that, and is charged for it. A put or multipart takes exactly its own size, and --exact-bytes
    counts that. Downloads, parts and refusals count none.

    A code is the reason of a refusal; issued items have none. A state is that of an issued item
    now; refused ones have none. Hours, days and months without items are left out.

    \b
    Examples:
      python -m worker audit count --by day,code --tenant acme --since 30d
      python -m worker audit count --by requester --decision refused --csv
      python -m worker audit count --by kind,state --since 2026-11
      python -m worker audit count --by month,tenant --tz Europe/Berlin
    """
    options = CountOptions(by, filters["zone"] or UTC, exact_bytes)
    try:
        with open_database(read_transaction) as connection:
            grant_filter = read_filter(connection, filters)
            counts = count_items(connection, grant_filter, options)
            note_pruned_counts(connection, grant_filter, options)
    except TooManyGroups:
        raise click.UsageError(
            f"There are more than {MAX_GROUPS:,} groups: select fewer items, for example with"
            " --since, or use `audit top`."
        ) from None
    print_counts(by, counts, output_format, with_total=True)


def note_pruned_counts(
    connection: Connection, grant_filter: GrantFilter, options: CountOptions
) -> None:
    """Say on stderr that items are missing in counts, if `audit prune` has removed some.

    Counts that are read from the counters of chunks have them all.
    """
    of_items = {"key", "code", "state", *ANNOTATION_FIELDS}
    has_item_columns = options.exact_bytes or not of_items.isdisjoint(options.by)
    if has_item_columns or grant_filter.selects_items or grant_filter.texts:
        note_pruned(connection, grant_filter.since)


def print_counts(
    by: tuple[str, ...], counts: list[ItemCount], output_format: Any, *, with_total: bool
) -> None:
    """Print counts. A table has sizes in units and, with_total, a last line with the sums."""
    if not counts:
        note_empty_result()
    if output_format is None:
        if with_total and by and counts:
            sums = (sum(getattr(each, name) for each in counts) for name in ItemCount._fields[1:])
            counts = [*counts, ItemCount(("total", *[""] * (len(by) - 1)), *sums)]
        rows: Iterable[Any] = map(_format_count, counts)
    else:
        rows = ((*each.group, *(getattr(each, name) for name in NUMBERS)) for each in counts)
    print_rows((*by, *NUMBERS), rows, output_format)


def _format_count(count: ItemCount) -> tuple[Any, ...]:
    numbers = (f"{number:,}" for number in (count.issued, count.refused, count.total))
    return (*count.group, *numbers, format_size(count.bytes))


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
    by: tuple[Dimension, ...] = ("tenant", "kind")
    with open_database(read_transaction) as connection:
        counts = count_items(connection, read_filter(connection, filters), CountOptions(by))
    if not counts:
        note_empty_result()
    rows = ((*count.group, count.issued, count.refused) for count in counts)
    print_rows((*by, "issued", "refused"), rows, output_format)


_RANKED = ("requester", *ANNOTATION_FIELDS, "key", "tenant", "bucket", "kind", "code")
_RANKINGS = [f"{dimension}s" for dimension in _RANKED]


def _parse_ranking(_context: click.Context, _argument: click.Parameter, text: str) -> str:
    """Parse the plural of a dimension, or the dimension itself, which `audit count --by` takes."""
    dimension = text.removesuffix("s")
    if dimension not in _RANKED:
        hint = did_you_mean(text, _RANKINGS, f"choose from {', '.join(_RANKINGS)}")
        raise click.BadParameter(f"there is no list of {text!r}{hint}")
    return dimension


_TOP_HELP = f"""List the requesters, keys, tenants or others with the most items.

COLUMN is one of {", ".join(_RANKINGS[:-1])} and {_RANKINGS[-1]}.
Codes are why items were refused, and reasons why they were requested. The numbers are those of
`audit count`.

\b
Examples:
  python -m worker audit top requesters --since 7d --limit 10
  python -m worker audit top keys --tenant acme --sort refused
"""


@click.command("top", help=_TOP_HELP)
@click.argument("dimension", metavar="COLUMN", callback=_parse_ranking)
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
def top(*, dimension: Dimension, sort: Any, limit: int, output_format: Any, **filters: Any) -> None:
    """Print the largest counts by one column."""
    with open_database(read_transaction) as connection:
        grant_filter = read_filter(connection, filters)
        counts = top_items(connection, grant_filter, dimension, limit, sort)
        note_pruned_counts(connection, grant_filter, CountOptions((dimension,)))
    print_counts((dimension,), counts, output_format, with_total=False)
