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
from valetkey.wire.replies import Grant

ItemResult = Grant | Refusal

_GRANT_COLUMNS = ("key", "id", "method", "url", "fields", "headers", "expires_at", "limited_by")
_REFUSAL_COLUMNS = ("refused", "field", "message")

RowResult = Grant | Refusal | FinishedRow


class OutputFormat(NamedTuple):
    """A heading above all results, and a function that renders one result with its line ending."""

    heading: str
    render: Callable[[ItemResult], str]


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
    cells = _grant_cells(result) if isinstance(result, Grant) else _refusal_cells(result)
    return csv_cells(cells) + "\n"


def csv_cells(cells: Iterable[object]) -> str:
    """Render cells as CSV, without a line ending."""
    row: str = _CSV_WRITER.writerow(cells)
    return row.removesuffix("\r\n")


def build_grants_format(render: Callable[[Grant], str]) -> OutputFormat:
    """Return a format that renders each grant with a function, and leaves refusals out."""
    return OutputFormat(
        "", lambda result: render(result) + "\n" if isinstance(result, Grant) else ""
    )


def get_format(name: str, path: str | None = None) -> OutputFormat:
    """Return the format with a name; path is the file that a curl command sends, if known."""
    if name == "curl":
        return build_grants_format(lambda grant: render_curl(grant, path))
    return _FORMATS[name]


JSON = OutputFormat("", json_line)
CSV = OutputFormat(",".join((*_GRANT_COLUMNS, *_REFUSAL_COLUMNS)) + "\n", csv_row)
_FORMATS = {
    "json": JSON,
    "csv": CSV,
    "url": build_grants_format(lambda grant: grant.url),
    "lines": build_grants_format(lambda grant: f"{grant.key}\t{grant.url}"),
    "form": build_grants_format(render_text),
    "html": build_grants_format(render_page),
    "js": build_grants_format(render_javascript),
}


def _grant_cells(grant: Grant) -> tuple[str, ...]:
    request = (grant.method, grant.url, _json_object(grant.fields), _json_object(grant.headers))
    expiry = (format_utc(grant.expires_at), grant.limited_by)
    return (grant.key, grant.id, *request, *expiry, "", "", "")


def _refusal_cells(refusal: Refusal) -> tuple[str, ...]:
    key = refusal.key or ""
    return (key, "", "", "", "", "", "", "", refusal.code, refusal.field, refusal.message)


def _json_object(values: dict[str, str]) -> str:
    return json.dumps(values) if values else "{}"


class RowLayout(NamedTuple):
    """A heading above all rows, and a function that renders a result and its copied values."""

    heading: str
    render: Callable[[RowResult, Mapping[str, Any]], str]


def get_layout(name: str, output_format: OutputFormat, copied_columns: Sequence[str]) -> RowLayout:
    """Return the layout of a format.

    JSON and CSV say what was charged and have the copied columns. The other formats are for grants
    alone.
    """
    if name not in {"csv", "json"}:
        return RowLayout(output_format.heading, _row_renderer(output_format, _render_nothing))
    if name == "json":
        return RowLayout("", _row_renderer(output_format, _render_members))
    columns = csv_cells(["charged", *copied_columns])
    heading = f"{output_format.heading.rstrip()},{columns}\n"

    def render_cells(text: str, result: Grant | Refusal, values: Mapping[str, Any]) -> str:
        charged = "yes" if isinstance(result, Grant) else "no"
        cells = (_cell_text(values.get(column)) for column in copied_columns)
        row = text.removesuffix("\n")
        return f"{row},{csv_cells([charged, *cells])}\n"

    return RowLayout(heading, _row_renderer(output_format, render_cells))


def _row_renderer(
    output_format: OutputFormat,
    add_values: Callable[[str, Grant | Refusal, Mapping[str, Any]], str],
) -> Callable[[RowResult, Mapping[str, Any]], str]:
    def render_row(result: RowResult, values: Mapping[str, Any]) -> str:
        if isinstance(result, FinishedRow):
            return result.text
        return add_values(output_format.render(result), result, values)

    return render_row


def _render_nothing(text: str, _result: Grant | Refusal, _values: Mapping[str, Any]) -> str:
    return text


def _render_members(text: str, result: Grant | Refusal, values: Mapping[str, Any]) -> str:
    members = {"charged": isinstance(result, Grant), **values}
    added = json.dumps(members, ensure_ascii=False, separators=(",", ":"))
    row = text.removesuffix("}\n")
    return f"{row},{added[1:]}\n"


def _cell_text(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, ensure_ascii=False)
