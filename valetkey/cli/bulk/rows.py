"""What `--from` reads: a text, CSV or JSON Lines file, row by row, the wrong ones as values."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from valetkey.cli.bulk.lines import LineReader, csv_records
from valetkey.cli.bulk.row_errors import InputError, RowRefusal
from valetkey.cli.messages import printable
from valetkey.wire.refusals import Code

Format = Literal["lines", "csv", "jsonl"]

FIRST_ROW: dict[Format, int] = {"lines": 1, "csv": 2, "jsonl": 1}
"""The number of the first row: a header is row 1."""

_BY_ENDING: dict[str, Format] = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}


class Columns(NamedTuple):
    """What rows may say: the columns that are known, needed, or nobody's business (`*`: any)."""

    known: Sequence[str]
    needed: Sequence[str] = ("key",)
    ignored: Sequence[str] = ()

    def unknown(self, names: Sequence[str]) -> list[str]:
        """The names, in order, that nobody expects."""
        if "*" in self.ignored:
            return []
        return [name for name in names if name not in self.known and name not in self.ignored]


class Row(NamedTuple):
    """A row's number, and what it says, by column; where it says nothing it has no such column."""

    number: int
    said: dict[str, Any]


Rows = Iterator[Row | RowRefusal]


def detect_format(name: str) -> Format:
    """What a file is, by its ending: keys, one a line, where it is none of the others."""
    return _BY_ENDING.get(Path(name).suffix.lower(), "lines")


def read_rows(lines: LineReader, form: Format, columns: Columns) -> Rows:
    """The rows of an input. Raises BadInput where there is no use in reading them."""
    return _READERS[form](lines, columns)


def _plain(lines: LineReader, columns: Columns) -> Rows:
    if missing := [name for name in columns.needed if name != "key"]:
        raise InputError(f"each row must say its `{missing[0]}`: use a .csv or .jsonl file")
    for number, line in enumerate(lines, FIRST_ROW["lines"]):
        yield Row(number, {"key": line.rstrip("\r\n")})


def _csv(lines: LineReader, columns: Columns) -> Rows:
    rows = csv_records(lines)
    header = next(rows, None) or []
    _check(header, columns)
    for number, cells in enumerate(rows, FIRST_ROW["csv"]):
        if cells is None:
            yield _unreadable(number, "its quotes do not match")
        elif not cells:
            yield _empty(number)
        elif len(cells) != len(header):
            text = f"it has {len(cells)} cells, and row 1 has {len(header)}"
            yield _unreadable(number, text)
        else:
            said = zip(header, cells, strict=True)
            yield Row(number, {name: cell for name, cell in said if name in columns.known and cell})


def _check(header: Sequence[str], columns: Columns) -> None:
    missing = [name for name in columns.needed if name not in header]
    if missing:
        raise InputError(f"row 1 names no column `{missing[0]}`")
    twice = [name for name in header if header.count(name) > 1 and name in columns.known]
    if twice:
        raise InputError(f"row 1 names the column `{twice[0]}` twice")
    if unknown := columns.unknown(header):
        raise InputError(
            f"row 1 names an unknown column `{printable(unknown[0])}`; {_may(columns)}"
        )


def _json_lines(lines: LineReader, columns: Columns) -> Rows:
    for number, line in enumerate(lines, FIRST_ROW["jsonl"]):
        if not line.strip():
            yield _empty(number)
            continue
        try:
            said = json.loads(line)
        except (ValueError, RecursionError):
            said = None
        yield _object(number, said, columns)


def _object(number: int, said: Any, columns: Columns) -> Row | RowRefusal:
    if not isinstance(said, dict):
        return _unreadable(number, "it is not a JSON object")
    if unknown := columns.unknown(list(said)):
        text = f"it has an unknown member `{printable(unknown[0])}`; {_may(columns)}"
        return RowRefusal.of(number, Code.UNKNOWN_FIELD, text, key=said.get("key"))
    known = {name: value for name, value in said.items() if name in columns.known}
    return Row(number, {name: value for name, value in known.items() if value is not None})


def _may(columns: Columns) -> str:
    return f"there may be {', '.join(columns.known)}, and what --ignore-columns names"


def _unreadable(number: int, why: str) -> RowRefusal:
    return RowRefusal.of(number, Code.MALFORMED, why)


def _empty(number: int) -> RowRefusal:
    return RowRefusal.of(number, Code.KEY_EMPTY, "it is empty")


_READERS: dict[Format, Callable[[LineReader, Columns], Rows]] = {
    "lines": _plain,
    "csv": _csv,
    "jsonl": _json_lines,
}
