"""Rows for people, programs and spreadsheets: an aligned table, JSON lines, or CSV."""

import csv
import io
import json
import shlex
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import click
from rich.cells import cell_len, set_cell_size

OutputFormat = Literal["table", "json", "csv"]

_AS_JSON = {bool, list, tuple, dict}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def print_rows(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], form: OutputFormat | None
) -> None:
    """Print rows. Times are UTC; what is None is empty, and null in JSON.

    Lists, objects, true and false are JSON in tables and CSV, too.
    """
    if form == "json":
        for row in rows:
            click.echo(json.dumps(dict(zip(columns, row, strict=True)), default=_text))
    elif form == "csv":
        click.echo(_csv([columns, *rows]), nl=False)
    else:
        click.echo(_table([columns, *rows]))


def print_page(
    context: click.Context,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    form: OutputFormat | None,
    after: object,
) -> None:
    """Print a page and, where after says that there is another, the exact command for that.

    The command goes to stderr where the page is data.
    """
    print_rows(columns, rows, form)
    if after is None:
        return
    given = context.params | {"after": after}
    words = [word for option in context.command.params for word in _words(option, given)]
    command = f"{context.command_path} {shlex.join(words)}"
    click.echo(f"\nNext page: {command}", err=form is not None)


def print_first_rows(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], limit: int, form: OutputFormat | None
) -> None:
    """Print the first so many rows, and say where there are more."""
    print_rows(columns, rows[:limit], form)
    if len(rows) > limit:
        click.echo("\nThere is more: give a larger --limit, or a later --since.", err=True)


def _words(option: click.Parameter, given: dict[str, Any]) -> list[str]:
    value = given.get(option.name or "")
    if value is None:
        return []
    if isinstance(option, click.Option) and option.is_flag:
        return [option.opts[0]] if value == option.flag_value else []
    return [option.opts[0], _text(value)]


def _table(rows: Sequence[Sequence[Any]]) -> str:
    cells = [[printable(_text(value)) for value in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(set_cell_size, row, widths)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\n").writerows(
        [_no_formula(_text(value)) for value in row] for row in rows
    )
    return written.getvalue()


def _text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if type(value) in _AS_JSON:  # and not what is made of one, and has its own text
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else str(value)


def printable(text: str) -> str:
    """Write out what would move a terminal's cursor: keys and names are the producers' words."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _no_formula(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA) else text
