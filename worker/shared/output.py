"""Prints rows as an aligned table, as JSON lines, or as CSV."""

import json
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from functools import partial
from itertools import chain
from typing import Any, Literal

import click
from sqlalchemy import ColumnElement, Connection, Row, Select

from valetkey.cli.format_options import add_options
from valetkey.cli.terminal_text import (
    escape_unprintable,
    format_table,
    print_table,
    terminal_columns,
)
from worker.base.database_engine import read_transaction
from worker.cli.command_options import with_programs
from worker.cli.database import open_database
from worker.shared.command_options import (
    chosen_zone,
    format_options,
    limit_option,
    refuse_empty_range,
    since_option,
    tenant_option,
    zone_option,
)
from worker.shared.pages import fetch_page
from worker.shared.tenant_history import check_tenant_option, is_of_tenant

OutputFormat = Literal["table", "json", "csv"]


_Row = Row[*tuple[Any, ...]]


_JSON_TYPES = {bool, list, tuple, dict}


_EMPTY = '""'  # the only cell of a line, which would be blank otherwise


_needs_quotes = re.compile(r'[",\r\n]').search


_FORMULA_STARTS = frozenset("=+-\N{MINUS SIGN}@'")


def print_rows(
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    output_format: OutputFormat | None,
    *,
    zone: tzinfo = UTC,
    with_headings: bool = True,
) -> None:
    """Print rows. Times are in a zone, bytes in hex. None is an empty cell, and null in JSON.

    In tables and CSV, lists, objects and booleans are printed as JSON, too. A terminal that is too
    narrow for a table gets it folded by column. Without headings, the rows continue a table or CSV.
    """
    if output_format == "json":
        for row in rows:
            values = dict(zip(columns, row, strict=True))
            click.echo(json.dumps(values, default=partial(_format_value, zone=zone)))
    elif output_format == "csv":
        lines = chain([columns], rows) if with_headings else rows
        click.echo(_format_csv(lines, zone), nl=False)
    else:
        cells = [[format_cell(value, zone) for value in row] for row in rows]
        if with_headings:
            print_table(columns, cells)
        elif cells:
            click.echo("\n".join(format_table(cells, terminal_columns())))


def format_in_zone(moment: datetime, zone: tzinfo) -> str:
    """Format an aware datetime as ISO 8601 in a time zone, with a Z for UTC."""
    return moment.astimezone(zone).isoformat().replace("+00:00", "Z")


def print_next_page(
    context: click.Context, after: object, output_format: OutputFormat | None
) -> None:
    """Print the exact command for the page after a position, to stderr for JSON and CSV."""
    params = context.params | {"after": after}
    words = [word for option in context.command.params for word in _option_words(option, params)]
    command = with_programs(f"{context.command_path} {shlex.join(words)}")
    click.echo(f"\nNext page: {command}", err=output_format is not None)


first_page_options = add_options(
    tenant_option, since_option, zone_option, limit_option, format_options
)
"""Adds the options of a list that shows one page. Pass their values to print_list."""


def print_list(  # noqa: PLR0913 - what lists differ in
    query: Select[*tuple[Any, ...]],
    options: Mapping[str, Any],
    *,
    is_since: Callable[[datetime], ColumnElement[bool]] | None = None,
    is_unwanted: Callable[[_Row], bool] | None = None,
    complete: Callable[[Connection, Sequence[_Row]], Iterable[Sequence[Any]]] | None = None,
    checks_tenant: bool = True,
) -> int:
    """Print a page of a query, whose labels are the headings, and how to read what follows it.

    --tenant selects by the column `tenant`, --since by is_since or the column `at`, and --after by
    the column `number`; without that option, a list has no second page. complete returns the rows
    to print. Rows that are unwanted are left out, and their number is returned.
    """
    context, columns = click.get_current_context(), query.selected_columns
    tenant, since, after = (options.get(name) for name in ("tenant", "since", "after"))
    refuse_empty_range(since, None)
    with open_database(read_transaction) as connection:
        if tenant is not None:
            if checks_tenant:
                check_tenant_option(connection, tenant)
            query = query.where(is_of_tenant(connection, columns.tenant, tenant))
        if since is not None:
            query = query.where(is_since(since) if is_since else columns.at >= since)
        if after is not None:
            query = query.where(columns.number < after)
        page = fetch_page(connection, query, options["limit"], is_unwanted)
        rows = complete(connection, page.records) if complete else page.records
    output_format = options["output_format"]
    print_rows(columns.keys(), rows, output_format, zone=chosen_zone(context))
    if page.has_more and "after" in options:
        print_next_page(context, page.records[-1].number, output_format)
    elif page.has_more:
        click.echo("\nThere are more rows: give a larger --limit, or a later --since.", err=True)
    return page.skipped


def _option_words(option: click.Parameter, params: dict[str, Any]) -> list[str]:
    # All options of output formats have the same parameter; none has one of its own.
    value = params.get(option.name or "" if option.expose_value else "output_format")
    if value is None:
        return []
    if isinstance(option, click.Option) and option.is_flag:
        return [option.opts[0]] if value == option.flag_value else []
    values = value if option.multiple else (value,)
    return [word for item in values for word in (option.opts[0], _format_value(item))]


def _format_csv(rows: Iterable[Sequence[Any]], zone: tzinfo) -> str:
    lines = (",".join(_format_csv_value(value, zone) for value in row) for row in rows)
    return "".join(f"{line or _EMPTY}\n" for line in lines)


def _format_csv_value(value: Any, zone: tzinfo) -> str:
    text = _format_value(value, zone)
    return text if isinstance(value, int | float) else format_csv_cell(text)


def format_csv_cell(text: str) -> str:
    """Format a text as a cell of CSV that no spreadsheet runs as a formula.

    The module csv quotes no carriage return before Python 3.13 if lines end with a line feed.
    """
    text = escape_formula(text)
    if _needs_quotes(text):
        quoted = text.replace('"', '""')
        return f'"{quoted}"'
    return text


def escape_formula(text: str) -> str:
    """Put an apostrophe before the text of a cell that a spreadsheet might run as a formula.

    Such a text begins with a character that starts formulas, also in a fullwidth or other
    compatible form, or with white space, a control or a format character, which spreadsheets skip.
    A text that begins with an apostrophe gets another one: readers remove one to get the text.
    """
    first = text[:1]
    if not first or first.isalnum():
        return text
    starts_formula = unicodedata.normalize("NFKC", first)[0] in _FORMULA_STARTS
    return f"'{text}" if starts_formula or first.isspace() or not first.isprintable() else text


def format_cell(value: Any, zone: tzinfo) -> str:
    """Format a value for a table."""
    return escape_unprintable(_format_value(value, zone))


def _format_value(value: Any, zone: tzinfo = UTC) -> str:
    if isinstance(value, datetime):
        return format_in_zone(value, zone)
    if isinstance(value, bytes):
        return value.hex()
    if type(value) in _JSON_TYPES:  # not subclasses such as named tuples, which have a __str__
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)
