"""The commands `audit list`, which can follow the log, `audit cancellations` and `rejections`."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta, tzinfo
from itertools import chain, islice
from typing import Any

import click
from click.core import ParameterSource
from rich.cells import cell_len
from sqlalchemy import Engine, func, select

from models import Cancellation, RejectionCount
from valetkey.cli.terminal_text import escape_unprintable, terminal_columns, widest_column
from worker.audit.audit_rows import (
    COLUMNS,
    NARROW,
    WIDE,
    GrantRecord,
    UnknownCursor,
    read_grants,
    read_heads,
    read_new_grants,
    record_cursor,
    stream_grants,
)
from worker.audit.grant_filters import (
    GrantFilter,
    filter_options,
    note_empty_result,
    note_pruned,
    parse_columns,
    read_filter,
)
from worker.audit.text_conditions import shown_text
from worker.base.database_engine import autocommit_read, read_transaction
from worker.cli.database import open_database
from worker.shared.command_options import chosen_zone, format_options, limit_option, parse_cursor
from worker.shared.output import (
    first_page_options,
    format_cell,
    print_list,
    print_next_page,
    print_rows,
)
from worker.shared.pages import Page, in_parts

_EXCLUSIVE = (
    *(("--all", "--limit"), ("--follow", "--all"), ("--follow", "--after")),
    ("--follow", "--until"),
)
_WIDE_TERMINAL = 150
_MIN_KEY = 16
_ROWS_PER_BLOCK = 500
POLL_SECONDS = 1.0


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


def _default_columns(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the columns of a narrow or a wide terminal, or all columns if there is none."""
    width = terminal_columns()
    if options["output_format"] is not None or width is None:
        return COLUMNS
    return WIDE if width >= _WIDE_TERMINAL else NARROW


def shorten_keys(columns: Sequence[str], rows: list[list[Any]], zone: tzinfo) -> None:
    """Shorten object keys in the middle to what other columns leave of their terminal line."""
    width = terminal_columns()
    if width is None or "key" not in columns:
        return
    number = columns.index("key")
    widths = [
        max([cell_len(heading), *(cell_len(format_cell(row[other], zone)) for row in rows)])
        for other, heading in enumerate(columns)
    ]
    widths[number] = min(widths[number], _MIN_KEY)
    longest = max(widest_column(widths, number, width), _MIN_KEY)
    for row in rows:
        row[number] = shorten_middle(escape_unprintable(row[number]), longest)


def shorten_middle(text: str, width: int) -> str:
    """Return a text that is at most so wide, with an ellipsis for what it leaves out."""
    if cell_len(text) <= width:
        return text
    head, tail = text[: width // 2], text[-(width - 1) // 2 :]
    while cell_len(f"{head}…{tail}") > width:
        head, tail = (head[:-1], tail) if len(head) >= len(tail) else (head, tail[1:])
    return f"{head}…{tail}"


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


@click.command("list")
@filter_options
@click.option(
    "--columns",
    metavar="NAME,…",
    callback=_parse_columns,
    help=f"Only these columns, in this order: {', '.join(COLUMNS)}. A terminal gets"
    f" {', '.join(NARROW)}, and more if it is wide; everything else gets all.",
)
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
    given = {
        option.opts[0]
        for option in context.command.params
        if context.get_parameter_source(option.name or "") is ParameterSource.COMMANDLINE
    }
    for pair in _EXCLUSIVE:
        if given.issuperset(pair):
            raise click.UsageError(" and ".join(pair) + " exclude each other")
    try:
        if options["follow"]:
            _follow(context, options)
        else:
            _list(context, options)
    except UnknownCursor as error:
        raise click.BadParameter(str(error), param_hint="--after") from None


def _list(context: click.Context, options: Mapping[str, Any]) -> None:
    page = Page[GrantRecord]([], has_more=False)
    with open_database(read_transaction) as connection:
        grant_filter = read_filter(connection, options)
        if options["all_rows"]:
            stream = stream_grants(connection, grant_filter, options["after"])
            blocks: Iterable[Sequence[GrantRecord]] = in_parts(stream, _ROWS_PER_BLOCK)
        else:
            page = read_grants(connection, grant_filter, options["limit"], options["after"])
            blocks = [page.records]
        is_empty = not _print_blocks(context, options, blocks)
        if not page.has_more:
            note_pruned(connection, grant_filter.since)
    if is_empty:
        note_empty_result()
    if page.has_more:
        print_next_page(context, record_cursor(page.records[-1]), options["output_format"])


def _follow(context: click.Context, options: Mapping[str, Any]) -> None:
    # Each look has a transaction of its own: an open one would keep old versions of rows.
    with open_database(autocommit_read) as connection:
        grant_filter = read_filter(connection, options)
        try:
            blocks = follow_grants(connection.engine, grant_filter, options["limit"])
            _print_blocks(context, options, blocks)
        except KeyboardInterrupt:
            context.exit(130)


def _print_blocks(
    context: click.Context, options: Mapping[str, Any], blocks: Iterable[Sequence[GrantRecord]]
) -> bool:
    """Print rows as one table, as CSV, or as JSON lines; return false if there are none."""
    columns = options["columns"] or _default_columns(options)
    remaining = iter(blocks)
    first = next(remaining, [])
    output_format, zone = options["output_format"], chosen_zone(context)
    for block in chain([first], remaining):
        rows = [[getattr(record, name) for name in columns] for record in block]
        if output_format is None:
            shorten_keys(columns, rows, zone)
        print_rows(columns, rows, output_format, zone=zone, with_headings=block is first)
        sys.stdout.flush()
    return bool(first)


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
    whole hour that contains that time.

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
