"""Rows for people, programs and spreadsheets: an aligned table, JSON lines, or CSV."""

import csv
import io
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

import click
from rich.cells import cell_len, set_cell_size

Form = Literal["table", "json", "csv"]
Command = TypeVar("Command", bound=Callable[..., Any])

LARGEST_PAGE = 1_000
_AS_JSON = {bool, list, tuple, dict}
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def form_options(command: Command) -> Command:
    """Add --json and --csv to a command, which then takes a form."""
    as_json = click.option(
        "--json", "form", flag_value="json", help="Print one JSON object a line, exactly as stored."
    )
    as_csv = click.option(
        "--csv",
        "form",
        flag_value="csv",
        help="Print CSV. What a spreadsheet would run as a formula gets an apostrophe before it.",
    )
    return as_json(as_csv(command))


def limit_option(command: Command) -> Command:
    """Add --limit to a command: a page is all it ever reads."""
    return click.option(
        "--limit",
        type=click.IntRange(1, LARGEST_PAGE),
        default=50,
        show_default=True,
        help="How many at most.",
    )(command)


def show(columns: Sequence[str], rows: Iterable[Sequence[Any]], form: Form | None) -> None:
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


def show_page(
    context: click.Context,
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    form: Form | None,
    after: object,
) -> None:
    """Print a page and, where after says that there is another, the exact command for that.

    The command goes to stderr where the page is data.
    """
    show(columns, rows, form)
    if after is None:
        return
    given = context.params | {"after": after}
    words = [word for option in context.command.params for word in _words(option, given)]
    command = f"{context.command_path} {shlex.join(words)}"
    click.echo(f"\nNext page: {command}", err=form is not None)


def show_some(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], limit: int, form: Form | None
) -> None:
    """Print the first so many rows, and say where there are more."""
    show(columns, rows[:limit], form)
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
