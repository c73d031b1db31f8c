"""The commands `audit list`, which can follow the log, `audit cancellations` and `rejections`."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta, tzinfo
from itertools import islice
from typing import Any

import click
from click.core import ParameterSource
from rich.cells import cell_len
from sqlalchemy import Engine, func, select

from models import Cancellation, RejectionCount
from valetkey.cli.terminal_text import escape_unprintable, terminal_columns
from worker.audit.audit_rows import (
    COLUMNS,
    GrantRecord,
    UnknownCursor,
    read_grants,
    read_heads,
    read_new_grants,
    record_cursor,
    stream_grants,
)
from worker.audit.filter_options import (
    filter_options,
    note_empty_result,
    note_pruned,
    parse_columns,
    read_filter,
)
from worker.audit.grant_filters import GrantFilter
from worker.audit.text_conditions import shown_text
from worker.base.database_engine import autocommit_read, read_transaction
from worker.cli.command_options import chosen_zone, format_options, limit_option, parse_cursor
from worker.cli.database import open_database
from worker.cli.output import (
    OutputFormat,
    first_page_options,
    format_cell,
    in_zone,
    print_list,
    print_next_page,
    print_rows,
)
from worker.core.annotations import ANNOTATION_FIELDS

_NARROW = ("time", "tenant", "kind", "decision", "key")
_NARROW_WITH_RECIPIENT = ("time", "recipient", "decision", "key")
_WIDE = ("time", "tenant", "requested_by", "recipient", "kind", "decision", "key", "grant")
_WHO_GOT_WHAT = ("key", *ANNOTATION_FIELDS)
"""The options of questions that the recipients of a list answer."""

_WIDE_TERMINAL = 150
_GAP = 2
_MIN_KEY = 16


def _parse_columns(
    context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    if text is None:
        return None
    if text.strip() == "help":
        click.echo("\n".join(COLUMNS))
        context.exit()
    names = parse_columns(text, COLUMNS, "--columns help lists them")
    if len(set(names)) < len(names):
        raise click.BadParameter("it names a column twice")
    return names


_columns_option = click.option(
    "--columns",
    metavar="NAME,…",
    callback=_parse_columns,
    help=f"Only these columns, in this order: {', '.join(COLUMNS)}. A terminal gets"
    f" {', '.join(_NARROW)}, and more if it is wide; everything else gets all.",
)


def default_columns(*, is_table: bool, has_recipient: bool) -> tuple[str, ...]:
    """Return the columns that fit into the terminal, or all columns if there is none.

    A narrow terminal gets recipients only if has_recipient.
    """
    width = terminal_columns()
    if not is_table or width is None:
        return COLUMNS
    if width >= _WIDE_TERMINAL:
        return _WIDE
    return _NARROW_WITH_RECIPIENT if has_recipient else _NARROW


def select_cells(
    records: Iterable[GrantRecord], columns: Sequence[str], zone: tzinfo
) -> list[list[Any]]:
    """Return the given columns of each record, with times in a zone."""
    return [list(in_zone([getattr(each, name) for name in columns], zone)) for each in records]


def shorten_keys(columns: Sequence[str], rows: list[list[Any]]) -> None:
    """Shorten object keys in the middle, so that rows fit into the terminal."""
    width = terminal_columns()
    if width is None or "key" not in columns:
        return
    number = columns.index("key")
    others = sum(
        max([cell_len(heading), *(cell_len(format_cell(row[other])) for row in rows)]) + _GAP
        for other, heading in enumerate(columns)
        if other != number
    )
    for row in rows:
        row[number] = shorten_middle(escape_unprintable(row[number]), max(width - others, _MIN_KEY))


def shorten_middle(text: str, width: int) -> str:
    """Return a text that is at most so wide, with an ellipsis for what it leaves out."""
    if cell_len(text) <= width:
        return text
    head, tail = text[: width // 2], text[-(width - 1) // 2 :]
    while cell_len(f"{head}…{tail}") > width:
        head, tail = (head[:-1], tail) if len(head) >= len(tail) else (head, tail[1:])
    return f"{head}…{tail}"


POLL_SECONDS = 1.0
_ROWS_PER_BLOCK = 500


def follow_grants(
    engine: Engine, grant_filter: GrantFilter, limit: int
) -> Iterator[Sequence[GrantRecord]]:
    """Yield the newest rows, oldest first, and then every row that is committed, without end."""
    with read_transaction(engine) as connection:
        # First: what is committed between the two reads is found again, and left out once.
        heads = read_heads(connection)
        page = read_grants(connection, grant_filter, limit).records[::-1]
    yield page
    printed = {(record.tenant, record.grant) for record in page}
    while True:
        with read_transaction(engine) as connection:
            now = read_heads(connection)
            records = read_new_grants(connection, grant_filter, heads, now)
            new = (each for each in records if (each.tenant, each.grant) not in printed)
            block = list(islice(new, _ROWS_PER_BLOCK))
            while len(block) == _ROWS_PER_BLOCK:
                yield block
                block = list(islice(new, _ROWS_PER_BLOCK))
        if block:  # a reader that stops here holds no transaction
            yield block
        heads = now
        time.sleep(POLL_SECONDS)


_ROWS_PER_PRINT = 500


@click.command("list")
@filter_options
@_columns_option
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
      python -m worker audit list --recipient '*@example.com' --since 30d
      python -m worker audit list --since 2026-11 --tz Europe/Berlin --all --csv
    """
    _refuse_contradictions(context, options)
    printer = _Printer(context, options)
    try:
        if options["follow"]:
            _follow(printer, options)
        else:
            _list(context, printer, options)
    except UnknownCursor as error:
        raise click.BadParameter(str(error), param_hint="--after") from None


class _Printer:
    """Prints blocks of rows as one table, as CSV, or as JSON lines."""

    def __init__(self, context: click.Context, options: dict[str, Any]) -> None:
        self._zone = chosen_zone(context)
        self._format: OutputFormat | None = options["output_format"]
        has_recipient = any(options[name] is not None for name in _WHO_GOT_WHAT)
        self._columns: tuple[str, ...] = options["columns"] or default_columns(
            is_table=self._format is None, has_recipient=has_recipient
        )
        self._has_headings = False

    def print(self, records: Iterable[GrantRecord]) -> None:
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
    pairs = (
        *(("--all", "--limit"), ("--follow", "--all"), ("--follow", "--after")),
        ("--follow", "--until"),
    )
    for option, other in pairs:
        if given[option] and given[other]:
            raise click.UsageError(f"{option} and {other} exclude each other")


def _list(context: click.Context, printer: _Printer, options: dict[str, Any]) -> None:
    limit, after = options["limit"], options["after"]
    with open_database(read_transaction) as connection:
        grant_filter = read_filter(connection, options)
        if options["all_rows"]:
            stream = stream_grants(connection, grant_filter, after)
            is_empty = _print_blocks(printer, stream)
            has_more = False
        else:
            page = read_grants(connection, grant_filter, limit, after)
            printer.print(page.records)
            is_empty, has_more = not page.records, page.has_more
        if not has_more:
            note_pruned(connection, grant_filter.since)
    if is_empty:
        note_empty_result()
    if has_more:
        after = record_cursor(page.records[-1])
        print_next_page(context, after, options["output_format"])


def _print_blocks(printer: _Printer, records: Iterator[GrantRecord]) -> bool:
    """Print all records; return true if there are none."""
    block = list(islice(records, _ROWS_PER_PRINT))
    is_empty = not block
    printer.print(block)
    while block := list(islice(records, _ROWS_PER_PRINT)):
        printer.print(block)
    return is_empty


def _follow(printer: _Printer, options: dict[str, Any]) -> None:
    # Each look has a transaction of its own: an open one would keep old versions of rows.
    with open_database(autocommit_read) as connection:
        grant_filter = read_filter(connection, options)
        try:
            for block in follow_grants(connection.engine, grant_filter, options["limit"]):
                printer.print(block)
        except KeyboardInterrupt:
            click.get_current_context().exit(130)


@click.command("cancellations")
@first_page_options
def list_cancellations(**options: Any) -> None:
    """List cancelled batches, newest first, with who cancelled them.

    \b
    Example:
      python -m worker audit cancellations --tenant acme
    """
    query = select(
        *(Cancellation.cancelled_at.label("at"), Cancellation.tenant),
        *(shown_text(Cancellation, "requested_by"), Cancellation.signing_key.label("signed_by")),
        *(shown_text(Cancellation, "reason"), Cancellation.batch_id.label("batch")),
    )
    print_list(query.order_by(Cancellation.cancelled_at.desc()), options)


@click.command("rejections")
@first_page_options
def list_rejections(**options: Any) -> None:
    """Count, by hour, the messages that could not be read or authenticated.

    The code not_recorded counts refused messages beyond what a day records without a charge.
    The tenant is the one that a message named, which does not prove that it sent the message.
    last_digest is the SHA-256 of the last message, to find that message by. --since includes the
    whole hour that contains the moment.

    \b
    Example:
      python -m worker audit rejections --tenant acme --since 1d
    """
    table = RejectionCount
    tenant = func.nullif(table.tenant, "").label("tenant")
    print_list(
        select(
            table.hour, tenant, table.code, table.count, table.last_at, table.last_digest
        ).order_by(table.hour.desc(), table.tenant, table.code),
        options,
        is_since=lambda since: table.hour > since - timedelta(hours=1),
        checks_tenant=False,
    )
