"""Rows of a text, CSV or JSON Lines file for `--from`; an invalid row becomes a refusal."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from valetkey.cli.bulk.copied_columns import MAX_COPIED_COLUMNS, Columns
from valetkey.cli.bulk.lines import LineReader, csv_records
from valetkey.cli.bulk.row_errors import InputError, RowRefusal
from valetkey.cli.printable import escape_unprintable
from valetkey.wire.refusals import Code

InputFormat = Literal["lines", "csv", "jsonl"]

FIRST_ROW: dict[InputFormat, int] = {"lines": 1, "csv": 2, "jsonl": 1}
"""The line of the first row with data: a header is in line 1."""

_FORMAT_BY_SUFFIX: dict[str, InputFormat] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


class Row(NamedTuple):
    """The line where a row begins, its values by column, and those to copy to the output.

    An empty CSV cell or JSON null has no entry in values.
    """

    number: int
    values: dict[str, Any]
    copied: Mapping[str, Any] = {}


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
    _, header = next(records, (1, None))
    header = header or []
    copied = _check_header(header, columns)
    for number, cells in records:
        if cells is None:
            text = "its quotes are unbalanced: write a quote inside a quoted cell twice"
            yield _malformed_row(number, text)
        elif not cells:
            yield _empty_row(number)
        elif len(cells) != len(header):
            text = f"it has {len(cells)} cells, but the header in line 1 has {len(header)}"
            yield _malformed_row(number, text)
        else:
            pairs = list(zip(header, cells, strict=True))
            values = {name: cell for name, cell in pairs if cell and name in columns.known}
            yield Row(number, values, {name: cell for name, cell in pairs if name in copied})


def _check_header(header: Sequence[str], columns: Columns) -> frozenset[str]:
    """Return the columns to copy to the output. Raises InputError."""
    if len(header) == 1 and any(separator in header[0] for separator in ";\t"):
        shown = escape_unprintable(header[0])
        raise InputError(f"line 1: the header has one column, `{shown}`: separate them by commas")
    unknown = [name for name in header if name not in columns.known]
    copied = [name for name in unknown if not columns.is_ignored(name)]
    for name in copied:
        if problem := columns.reject_copy(name):
            raise InputError(f"line 1: {problem}; {_known_names_hint(columns)}")
    missing = [name for name in columns.required if name not in header]
    if missing:
        raise InputError(f"line 1: the header has no column `{missing[0]}`")
    used = [name for name in header if name in columns.known or name in copied]
    repeated = [name for name in used if used.count(name) > 1]
    if repeated:
        shown = escape_unprintable(repeated[0])
        raise InputError(f"line 1: the header has the column `{shown}` twice")
    if len(copied) > MAX_COPIED_COLUMNS:
        raise InputError(f"line 1: the header has {_too_many_columns()}")
    return frozenset(copied)


def _read_json_lines(lines: LineReader, columns: Columns) -> Rows:
    members = _Members(columns)
    for number, line in enumerate(lines, FIRST_ROW["jsonl"]):
        if not line.strip():
            yield _empty_row(number)
            continue
        try:
            values = json.loads(line, parse_float=_parse_float, parse_constant=_parse_float)
        except (ValueError, RecursionError):
            values = None
        yield _row_from_json(number, values, columns, members)


class _Members:
    """The unknown members of JSON objects so far: why each is not copied, or None if it is."""

    def __init__(self, columns: Columns) -> None:
        self._columns = columns
        self._problems: dict[str, str | None] = {}

    def find_problem(self, name: str) -> str | None:
        """Return why an unknown member is not copied to the output, or None if it is."""
        if name not in self._problems:
            if len(self._problems) == MAX_COPIED_COLUMNS:
                return f"the rows have {_too_many_columns()}"
            self._problems[name] = self._columns.reject_copy(name)
        return self._problems[name]


def _row_from_json(
    number: int, values: Any, columns: Columns, members: _Members
) -> Row | RowRefusal:
    if not isinstance(values, dict):
        return _malformed_row(number, "it is not a JSON object")
    unknown = {name: value for name, value in values.items() if name not in columns.known}
    copied = {name: value for name, value in unknown.items() if not columns.is_ignored(name)}
    for name in copied:
        if problem := members.find_problem(name):
            text = f"{problem}; {_known_names_hint(columns)}"
            return RowRefusal.create(number, Code.UNKNOWN_FIELD, text, key=values.get("key"))
    known = {name: value for name, value in values.items() if name in columns.known}
    given = {name: value for name, value in known.items() if value is not None}
    return Row(number, given, copied)


def _parse_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)  # JSON has no such number, and the output must be JSON
    return number


def _known_names_hint(columns: Columns) -> str:
    return f"known names are {', '.join(columns.known)}"


def _too_many_columns() -> str:
    return f"more than {MAX_COPIED_COLUMNS} unknown columns: leave some out with --ignore-columns"


def _malformed_row(number: int, cause: str) -> RowRefusal:
    return RowRefusal.create(number, Code.MALFORMED, cause)


def _empty_row(number: int) -> RowRefusal:
    return RowRefusal.create(number, Code.KEY_EMPTY, "it is empty")


_READERS: dict[InputFormat, Callable[[LineReader, Columns], Rows]] = {
    "lines": _read_lines,
    "csv": _read_csv,
    "jsonl": _read_json_lines,
}
