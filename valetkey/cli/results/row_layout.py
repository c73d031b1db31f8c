"""Rows of an output: a result, what was charged for it, and the columns copied from the input."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from valetkey.cli.bulk.finished_output import FinishedRow
from valetkey.cli.results.formats import OutputFormat, csv_cells
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant

RowResult = Grant | Refusal | FinishedRow


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
