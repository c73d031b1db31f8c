"""Tables of figures, as HTML. All text from the database is escaped."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

from valetkey.cli.printable import escape_unprintable

_TABLE = Markup("""\
<div class="rows" role="region" aria-label="Table: {caption}" tabindex="0">
<table>
<caption class="only-spoken">{caption}</caption>
<thead><tr>{headings}</tr></thead>
<tbody>
{rows}
</tbody>{foot}
</table>
</div>""")


_SMALL_SHARE, _LARGE_SHARE = 0.1, 99.9  # percent


class Column(NamedTuple):
    """A column: its heading, and whether it has numbers."""

    title: str
    is_number: bool = False


class Cell(NamedTuple):
    """A cell: its content, and the value by which rows are sorted."""

    content: str
    value: str | int | float


Row = Sequence[Cell]


def name_cell(name: str, order: int | None = None) -> Cell:
    """Return the cell of a name from the database, sorted by order if that is given."""
    return Cell(isolate(name), escape_unprintable(name) if order is None else f"{order:03}")


def text_cell(text: str) -> Cell:
    """Return the cell of a text of our own."""
    return Cell(text, text)


def number_cell(number: int) -> Cell:
    """Return the cell of a number."""
    return Cell(f"{number:,}", number)


def share_cell(number: int, total: int) -> Cell:
    """Return the cell of a number's share of a total, in percent."""
    return Cell(describe_share(number, total), number / total if total else 0)


def isolate(text: str) -> Markup:
    """Return text from the database for the page, so that its writing direction stays its own."""
    return Markup("<bdi>{}</bdi>").format(escape_unprintable(text))


def describe_share(number: int, total: int) -> str:
    """Describe a share in percent; a small share is not 0%, and one of nearly all is not 100%."""
    if not number or number == total:
        return "100%" if number else "0%"
    percent = number * 100 / total
    if percent < _SMALL_SHARE:
        return f"<{_SMALL_SHARE}%"
    return f"{percent:.1f}%" if percent <= _LARGE_SHARE else f">{_LARGE_SHARE}%"


def render_table(
    caption: str, columns: Sequence[Column], rows: Iterable[Row], foot: Iterable[Row] = ()
) -> Markup:
    """Render a table in a region of its own, which scrolls if the page is too narrow.

    The first cell of each row is the row's heading. Rows of the foot are not sorted.
    """
    headings = Markup("").join(map(_render_heading, columns))
    foot_rows = _render_rows(columns, foot)
    return _TABLE.format(
        caption=caption,
        headings=headings,
        rows=_render_rows(columns, rows),
        foot=Markup("\n<tfoot>\n{}\n</tfoot>").format(foot_rows) if foot_rows else "",
    )


def _render_heading(column: Column) -> Markup:
    css = Markup(' class="number"') if column.is_number else ""
    return Markup('<th scope="col"{}>{}</th>').format(css, column.title)


def _render_rows(columns: Sequence[Column], rows: Iterable[Row]) -> Markup:
    return Markup("\n").join(_render_row(columns, row) for row in rows)


def _render_row(columns: Sequence[Column], row: Row) -> Markup:
    first, *rest = zip(columns, row, strict=True)
    cells = [
        Markup('<td class="{css}"{number} data-value="{value}">{content}</td>').format(
            css="number" if column.is_number else "text",
            number=Markup(" data-number") if column.is_number else "",
            value=cell.value,
            content=cell.content,
        )
        for column, cell in rest
    ]
    head = Markup('<th scope="row" class="name" data-value="{value}">{content}</th>').format(
        value=escape(first[1].value), content=first[1].content
    )
    return Markup("<tr>{}{}</tr>").format(head, Markup("").join(cells))
