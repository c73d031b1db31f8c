"""Output formats of results (`--json`, `--csv` and the others), and their rows in a file."""

import csv
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from valetkey.cli.journal import FinishedRow
from valetkey.cli.snippets import render_curl, render_javascript, render_page, render_text
from valetkey.units import format_utc
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant, ItemResult

_CSV_COLUMNS = (
    *("key", "id", "method", "url", "fields", "headers", "expires_at", "limited_by"),
    *("refused", "field", "message", "ref"),
)
CSV_HEADING = ",".join(_CSV_COLUMNS) + "\n"

RowResult = Grant | Refusal | FinishedRow

Renderer = Callable[[ItemResult], str]
"""Renders one result with its line ending."""


class _EchoStream:
    """A stream whose write method returns its text, so that csv.writer returns the row."""

    def write(self, text: str) -> str:
        return text


# Up to Python 3.12, csv quotes a cell only for characters of the line terminator. A key may contain
# a carriage return, so the terminator here has one, and csv_row removes it.
_CSV_WRITER = csv.writer(_EchoStream(), lineterminator="\r\n")


def json_line(result: ItemResult) -> str:
    """Render a result as one JSON object, as it came over the wire; a refusal has a `code`."""
    return to_json(result).decode() + "\n"


def csv_row(result: ItemResult) -> str:
    """Render a result as a CSV row; a grant leaves the refusal's columns empty, and vice versa."""
    if isinstance(result, Grant):
        values = {name: getattr(result, name, "") for name in _CSV_COLUMNS}
        values["fields"], values["headers"] = map(json.dumps, (result.fields, result.headers))
        values["expires_at"] = format_utc(result.expires_at)
    else:
        values = {"refused": result.code, **dict(result)}
    return csv_cells(values.get(name) or "" for name in _CSV_COLUMNS) + "\n"


def csv_cells(cells: Iterable[object]) -> str:
    """Render cells as CSV, without a line ending."""
    row: str = _CSV_WRITER.writerow(cells)
    return row.removesuffix("\r\n")


def _render_grants(render: Callable[[Grant], str]) -> Renderer:
    """Return a renderer of grants alone, which leaves refusals out."""
    return lambda result: render(result) + "\n" if isinstance(result, Grant) else ""


def get_renderer(name: str, path: str | None = None) -> Renderer:
    """Return the renderer of a format; path is the file that a curl command sends, if known."""
    if name == "curl":
        return _render_grants(lambda grant: render_curl(grant, path))
    return _RENDERERS[name]


_RENDERERS: dict[str, Renderer] = {
    "json": json_line,
    "csv": csv_row,
    "url": _render_grants(lambda grant: grant.url),
    "lines": _render_grants(lambda grant: f"{grant.key}\t{grant.url}"),
    "form": _render_grants(render_text),
    "html": _render_grants(render_page),
    "js": _render_grants(render_javascript),
}


class RowLayout(NamedTuple):
    """A heading above all rows, and a function that renders a result and its copied values."""

    heading: str
    render: Callable[[RowResult, Mapping[str, Any]], str]


def get_layout(name: str, path: str | None, copied_columns: Sequence[str]) -> RowLayout:
    """Return the layout of a format; path is the file that a curl command sends, if known.

    JSON and CSV say what was charged and have the copied columns. The other formats are for grants
    alone.
    """
    render = get_renderer(name, path)

    def render_row(result: RowResult, values: Mapping[str, Any]) -> str:
        if isinstance(result, FinishedRow):
            return result.text
        text, is_grant = render(result), isinstance(result, Grant)
        if name == "json":
            return _add_members(text, {"charged": is_grant, **values})
        if name == "csv":
            cells = (_cell_text(values.get(column)) for column in copied_columns)
            return _add_cells(text, ["yes" if is_grant else "no", *cells])
        return text

    is_csv = name == "csv"
    heading = _add_cells(CSV_HEADING, ["charged", *copied_columns]) if is_csv else ""
    return RowLayout(heading, render_row)


def _add_members(text: str, members: Mapping[str, Any]) -> str:
    added = json.dumps(members, ensure_ascii=False, separators=(",", ":"))
    row = text.removesuffix("}\n")
    return f"{row},{added[1:]}\n"


def _add_cells(text: str, cells: Iterable[object]) -> str:
    row = text.removesuffix("\n")
    return f"{row},{csv_cells(cells)}\n"


def _cell_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
