"""The columns of lists of grants: which ones, and how they fit into a terminal."""

from collections.abc import Iterable, Sequence
from datetime import tzinfo
from typing import Any

import click
from rich.cells import cell_len

from valetkey.cli.printable import escape_unprintable
from valetkey.cli.table_layout import terminal_columns
from worker.commands.options import Command
from worker.commands.output import format_cell, in_zone
from worker.db.audit.grants import AuditRecord
from worker.db.audit.selection.similar_names import did_you_mean

_NARROW = ("time", "tenant", "kind", "decision", "key")
_WIDE = ("time", "tenant", "requested_by", "kind", "decision", "key", "grant")
_WIDE_TERMINAL = 150
_GAP = 2
_MIN_KEY = 16


def columns_option(command: Command) -> Command:
    """Add --columns to a command: the names of the columns to print, or None."""
    return click.option(
        "--columns",
        metavar="NAME,…",
        callback=_parse_columns,
        help=f"Only these columns, in this order: {', '.join(AuditRecord._fields)}. A terminal gets"
        f" {', '.join(_NARROW)}, and more if it is wide; everything else gets all.",
    )(command)


def _parse_columns(
    context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[str, ...] | None:
    if text is None:
        return None
    if text.strip() == "help":
        click.echo("\n".join(AuditRecord._fields))
        context.exit()
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in AuditRecord._fields:
            hint = did_you_mean(name, AuditRecord._fields, "--columns help lists them")
            raise click.BadParameter(f"there is no column {name!r}{hint}")
    if len(set(names)) < len(names):
        raise click.BadParameter("it names a column twice")
    return names


def default_columns(*, is_table: bool) -> tuple[str, ...]:
    """Return the columns that fit into the terminal, or all columns if there is none."""
    width = terminal_columns()
    if not is_table or width is None:
        return AuditRecord._fields
    return _WIDE if width >= _WIDE_TERMINAL else _NARROW


def select_cells(
    records: Iterable[AuditRecord], columns: Sequence[str], zone: tzinfo
) -> list[list[Any]]:
    """Return the given columns of each record, with times in a zone."""
    numbers = [AuditRecord._fields.index(column) for column in columns]
    rows = (in_zone(record, zone) for record in records)
    return [[row[number] for number in numbers] for row in rows]


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
