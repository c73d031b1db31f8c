"""Text for a terminal: escaped foreign text, names of programs to paste, and aligned tables.

Nothing in a table is cut or split: an id can be copied from any table. Without a terminal, each row
is one line, however long it is; a narrow terminal gets columns that are folded.
"""

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.cells import cell_len

from valetkey.cli.command_groups import WORDS

if TYPE_CHECKING:
    from rich.console import Console

_GAP = "  "
_INDENT = "  "  # of a row's second line and the following ones, if its columns are folded
_MIN_WRAPPED = 30  # columns: in less, wrapped text is harder to read than on lines of its own

Rows = Sequence[Sequence[str]]


def escape_unprintable(text: str) -> str:
    """Escape every non-printable character, so that foreign text cannot control the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def program_command(name: str) -> str:
    """Return the shell word that starts a program which is installed beside this Python.

    It is the plain name if the shell's PATH leads to that program, and otherwise its path: from the
    working folder if it is below it. Without such a program it is the plain name.
    """
    path = Path(sys.executable).with_name(name)
    found = shutil.which(name)
    # Not resolved: the python of a virtual environment is a link to another one.
    if not path.exists() or (found and Path(os.path.abspath(found)) == path):  # noqa: PTH100
        return name
    below = path.is_relative_to(Path.cwd())
    return shlex.quote(str(path.relative_to(Path.cwd()) if below else path))


def same_command(option: str | None) -> str:
    """Return the running command as a line for a shell, with --resume, --force or neither."""
    words = click.get_current_context().meta[WORDS]
    end = words.index("--") if "--" in words else len(words)
    kept = [word for word in words[:end] if word not in {"--resume", "--force"}]
    line = shlex.join([*kept, *([option] if option else []), *words[end:]])
    return f"{program_command('valetkey')} {line}"


def next_command(*words: str) -> str:
    """Return a command for a shell, for the tenant that --tenant of the running command names."""
    tenant = click.get_current_context().params.get("tenant")
    options = [] if tenant is None else ["--tenant", tenant]
    return f"{program_command('valetkey')} {shlex.join([*words, *options])}"


def stderr_console() -> "Console":
    """Return a console for stderr that prints foreign text without interpreting it as markup."""
    from rich.console import Console  # noqa: PLC0415

    return Console(stderr=True, markup=False, emoji=False, highlight=False)


def print_table(headings: Sequence[str], rows: Rows, *, wrap_last: bool = False) -> None:
    """Print rows under bold headings, in the width of the terminal.

    Cells may be styled by click.style, and contain no other control characters. If a row is too
    wide, its columns are folded: it continues on further, indented lines, and so do the headings.
    With wrap_last, the last column contains sentences, whose words are wrapped instead.
    """
    bold = [click.style(heading, bold=True) if heading else "" for heading in headings]
    _echo("\n".join(format_table([bold, *rows], terminal_columns(), wrap_last=wrap_last)))


def print_hanging(prefix: str, text: str) -> None:
    """Print a sentence after a prefix; on a terminal, its further lines begin below the first."""
    _echo("\n".join(_hanging_lines(prefix, text, terminal_columns())))


def terminal_columns() -> int | None:
    """Return the width of the terminal that stdout is, or None if it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def format_table(rows: Rows, columns: int | None, *, wrap_last: bool = False) -> list[str]:
    """Return the lines of a table that is at most so wide, unless a single cell is wider."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    if wrap_last:
        return [line for row in rows for line in _wrapped_row(row, widths, columns)]
    groups = _fold(widths, columns)
    return [line for row in rows for line in _folded_row(row, widths, groups)]


def widest_column(widths: Sequence[int], number: int, columns: int) -> int:
    """Return the width to which a column of a table can grow without another fold."""
    line = next(group for group in _fold(widths, columns) if number in group)
    others = sum(widths[other] + len(_GAP) for other in line if other != number)
    return columns - others - (0 if 0 in line else len(_INDENT))


def _fold(widths: Sequence[int], columns: int | None) -> list[list[int]]:
    """Return the numbers of the columns that share a line, line by line."""
    groups: list[list[int]] = [[]]
    used = 0
    for number, width in enumerate(widths):
        needed = width + len(_GAP) * bool(groups[-1])
        if columns is not None and groups[-1] and used + needed > columns:
            groups.append([])
            used, needed = len(_INDENT), width
        groups[-1].append(number)
        used += needed
    return groups


def _folded_row(
    row: Sequence[str], widths: Sequence[int], groups: Sequence[Sequence[int]]
) -> list[str]:
    lines = [_GAP.join(_pad(row[number], widths[number]) for number in group) for group in groups]
    lines = [f"{_INDENT if number else ''}{line}".rstrip() for number, line in enumerate(lines)]
    while len(lines) > 1 and not lines[-1]:
        lines.pop()
    return lines


def _wrapped_row(row: Sequence[str], widths: Sequence[int], columns: int | None) -> list[str]:
    *cells, last = map(_pad, row, [*widths[:-1], 0])
    return _hanging_lines("".join(f"{cell}{_GAP}" for cell in cells), last, columns)


def _hanging_lines(prefix: str, text: str, columns: int | None) -> list[str]:
    indent = _width(prefix)
    if columns is None or columns - indent < _MIN_WRAPPED:
        return [f"{prefix}{text}".rstrip()]
    lines = textwrap.wrap(
        text, columns - indent, break_long_words=False, break_on_hyphens=False
    ) or [""]
    return [f"{prefix}{lines[0]}".rstrip(), *(" " * indent + line for line in lines[1:])]


def _pad(cell: str, width: int) -> str:
    return cell + " " * (width - _width(cell))


def _width(cell: str) -> int:
    return cell_len(click.unstyle(cell))


def _echo(text: str) -> None:
    click.echo(text, color=False if os.environ.get("NO_COLOR") else None)
