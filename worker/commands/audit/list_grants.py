"""Lists the audit log of grants."""

import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import click
from click.core import ParameterSource

from worker.commands.audit.filter_options import (
    filter_options,
    note_empty_result,
    note_pruned,
    read_filter,
)
from worker.commands.audit.grants.columns import (
    columns_option,
    default_columns,
    select_cells,
    shorten_keys,
)
from worker.commands.database import open_database
from worker.commands.options import chosen_zone, format_options, limit_option, parse_cursor
from worker.commands.output import OutputFormat, print_next_page, print_rows
from worker.db.audit import grants
from worker.db.audit.grants import AmbiguousCursor, AuditRecord, UnknownCursor
from worker.db.engine import autocommit_read, read_transaction

_ROWS_PER_PRINT = 500


@click.command("list")
@filter_options
@columns_option
@limit_option
@click.option("--after", callback=parse_cursor, help="Start after the grant with this id.")
@click.option("--all", "all_rows", is_flag=True, help="Print all rows, not a page of them.")
@click.option(
    "--follow",
    is_flag=True,
    help="Print a page, oldest first, and then every new row until Ctrl-C.",
)
@format_options
@click.pass_context
def list_grants(context: click.Context, /, **options: Any) -> None:
    """List requested items, newest first: the decision is `issued` or the code of the refusal.

    \b
    Examples:
      python -m worker audit list --tenant acme --decision refused --since yesterday
      python -m worker audit list --key 's3://reports/acme/2026/*.pdf' --columns time,decision,grant
      python -m worker audit list --since 2026-11 --tz Europe/Berlin --all --csv
    """
    _refuse_contradictions(context, options)
    printer = _Printer(context, options["columns"], options["output_format"])
    try:
        if options["follow"]:
            _follow(printer, options)
        else:
            _list(context, printer, options)
    except UnknownCursor:
        text = "the audit log has no batch with this id"
        raise click.BadParameter(text, param_hint="--after") from None
    except AmbiguousCursor:
        text = "several tenants have a batch with this id: name one, as in TENANT/BATCH.NUMBER"
        raise click.BadParameter(text, param_hint="--after") from None


class _Printer:
    """Prints blocks of rows as one table, as CSV, or as JSON lines."""

    def __init__(
        self,
        context: click.Context,
        columns: tuple[str, ...] | None,
        output_format: OutputFormat | None,
    ) -> None:
        self._zone = chosen_zone(context)
        self._columns = columns or default_columns(is_table=output_format is None)
        self._format = output_format
        self._has_headings = False

    def print(self, records: Iterable[AuditRecord]) -> None:
        rows = select_cells(records, self._columns, self._zone)
        if self._format is None:
            shorten_keys(self._columns, rows)
        headings = not self._has_headings
        print_rows(self._columns, rows, self._format, with_headings=headings)
        self._has_headings = True
        sys.stdout.flush()


def _refuse_contradictions(context: click.Context, options: dict[str, Any]) -> None:
    has_limit = context.get_parameter_source("limit") is ParameterSource.COMMANDLINE
    given = {
        "--all": options["all_rows"],
        "--follow": options["follow"],
        "--limit": has_limit,
        "--after": options["after"] is not None,
        "--until": options["until"] is not None,
    }
    excluded = {"--all": ("--limit",), "--follow": ("--all", "--after", "--until")}
    for option, others in excluded.items():
        for other in others:
            if given[option] and given[other]:
                raise click.UsageError(f"{option} and {other} exclude each other")


def _list(context: click.Context, printer: _Printer, options: dict[str, Any]) -> None:
    limit, after = options["limit"], options["after"]
    with open_database(read_transaction) as connection:
        grant_filter = read_filter(connection, options)
        if options["all_rows"]:
            stream = grants.stream_grants(connection, grant_filter, after)
            is_empty = _print_blocks(printer, stream)
            has_more = False
        else:
            page = grants.read_grants(connection, grant_filter, limit, after)
            printer.print(page.records)
            is_empty, has_more = not page.records, page.has_more
        if not has_more:
            note_pruned(connection, grant_filter.since)
    if is_empty:
        note_empty_result()
    if has_more:
        after = grants.record_cursor(page.records[-1])
        print_next_page(context, after, options["output_format"])


def _print_blocks(printer: _Printer, records: Iterator[AuditRecord]) -> bool:
    """Print all records; return true if there are none."""
    block = list(islice(records, _ROWS_PER_PRINT))
    is_empty = not block
    printer.print(block)
    while block := list(islice(records, _ROWS_PER_PRINT)):
        printer.print(block)
    return is_empty


def _follow(printer: _Printer, options: dict[str, Any]) -> None:
    from worker.commands.audit.grants.follow import follow_grants  # noqa: PLC0415 - rarely needed

    # Each look has a transaction of its own: an open one would keep old versions of rows.
    with open_database(autocommit_read) as connection:
        grant_filter = read_filter(connection, options)
        try:
            for block in follow_grants(connection.engine, grant_filter, options["limit"]):
                printer.print(block)
        except KeyboardInterrupt:
            click.get_current_context().exit(130)
