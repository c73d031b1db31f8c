"""Rows of a text, CSV or JSON Lines file for `--from`; an invalid row becomes a refusal."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from valetkey.cli.bulk.lines import LineReader, csv_records
from valetkey.cli.bulk.row_errors import InputError, RowRefusal
from valetkey.cli.descriptions import escape_unprintable
from valetkey.wire.refusals import Code

InputFormat = Literal["lines", "csv", "jsonl"]

FIRST_ROW: dict[InputFormat, int] = {"lines": 1, "csv": 2, "jsonl": 1}
"""The number of the first row with data: a header is row 1."""

_FORMAT_BY_SUFFIX: dict[str, InputFormat] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


class Columns(NamedTuple):
    """The columns that rows may have: known, required, and ignored ones (`*`: any unknown one)."""

    known: Sequence[str]
    required: Sequence[str] = ("key",)
    ignored: Sequence[str] = ()

    def find_unknown(self, names: Sequence[str]) -> list[str]:
        """Return the names, in order, that are neither known nor ignored."""
        if "*" in self.ignored:
            return []
        return [name for name in names if name not in self.known and name not in self.ignored]


class Row(NamedTuple):
    """A row's number and its values by column; an empty CSV cell or JSON null has no entry."""

    number: int
    values: dict[str, Any]


Rows = Iterator[Row | RowRefusal]


def detect_format(file_name: str) -> InputFormat:
    """Return the format that a file's ending implies; any other ending means one key a line."""
    return _FORMAT_BY_SUFFIX.get(Path(file_name).suffix.lower(), "lines")


def read_rows(lines: LineReader, input_format: InputFormat, columns: Columns) -> Rows:
    """Yield the rows of an input. Raises InputError if the columns make it unusable."""
    return _READERS[input_format](lines, columns)


def _read_lines(lines: LineReader, columns: Columns) -> Rows:
    if missing := [name for name in columns.required if name != "key"]:
        raise InputError(
            f"each row needs its `{missing[0]}`, which plain lines cannot have: "
            "use a .csv or .jsonl file"
        )
    for number, line in enumerate(lines, FIRST_ROW["lines"]):
        yield Row(number, {"key": line.rstrip("\r\n")})


def _read_csv(lines: LineReader, columns: Columns) -> Rows:
    records = csv_records(lines)
    header = next(records, None) or []
    _check_header(header, columns)
    for number, cells in enumerate(records, FIRST_ROW["csv"]):
        if cells is None:
            text = "its quotes are unbalanced: write a quote inside a quoted cell twice"
            yield _malformed_row(number, text)
        elif not cells:
            yield _empty_row(number)
        elif len(cells) != len(header):
            text = f"it has {len(cells)} cells, but the header in row 1 has {len(header)}"
            yield _malformed_row(number, text)
        else:
            pairs = zip(header, cells, strict=True)
            values = {name: cell for name, cell in pairs if name in columns.known and cell}
            yield Row(number, values)


def _check_header(header: Sequence[str], columns: Columns) -> None:
    missing = [name for name in columns.required if name not in header]
    if missing:
        raise InputError(f"the header in row 1 has no column `{missing[0]}`")
    repeated = [name for name in header if header.count(name) > 1 and name in columns.known]
    if repeated:
        raise InputError(f"the header in row 1 has the column `{repeated[0]}` twice")
    if unknown := columns.find_unknown(header):
        raise InputError(
            f"the header in row 1 has an unknown column `{escape_unprintable(unknown[0])}`; "
            f"{_known_names_hint(columns)}"
        )


def _read_json_lines(lines: LineReader, columns: Columns) -> Rows:
    for number, line in enumerate(lines, FIRST_ROW["jsonl"]):
        if not line.strip():
            yield _empty_row(number)
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        yield _row_from_json(number, values, columns)


def _row_from_json(number: int, values: Any, columns: Columns) -> Row | RowRefusal:
    if not isinstance(values, dict):
        return _malformed_row(number, "it is not a JSON object")
    if unknown := columns.find_unknown(list(values)):
        name = escape_unprintable(unknown[0])
        text = f"it has an unknown member `{name}`; {_known_names_hint(columns)}"
        return RowRefusal.create(number, Code.UNKNOWN_FIELD, text, key=values.get("key"))
    known = {name: value for name, value in values.items() if name in columns.known}
    return Row(number, {name: value for name, value in known.items() if value is not None})


def _known_names_hint(columns: Columns) -> str:
    return f"known names are {', '.join(columns.known)}; --ignore-columns skips others"


def _malformed_row(number: int, cause: str) -> RowRefusal:
    return RowRefusal.create(number, Code.MALFORMED, cause)


def _empty_row(number: int) -> RowRefusal:
    return RowRefusal.create(number, Code.KEY_EMPTY, "it is empty")


_READERS: dict[InputFormat, Callable[[LineReader, Columns], Rows]] = {
    "lines": _read_lines,
    "csv": _read_csv,
    "jsonl": _read_json_lines,
}
