"""Rows of a text, CSV or JSON Lines file for `--from`; an invalid row becomes a refusal."""

import csv
import json
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import SequenceMatcher
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from valetkey.cli.row_errors import InputError, RowRefusal
from valetkey.cli.terminal_text import escape_unprintable
from valetkey.wire.messages import ITEM_TEXTS
from valetkey.wire.refusals import Code, Refusal
from valetkey.wire.replies import Grant

MAX_LINE_BYTES = 1024**2

MAX_COPIED_COLUMNS = 256
"""The maximum number of copied columns. JSON Lines may name each of them in a later row."""

# `charged` and `refused` exist only in the output; the other names are those of the results.
OUTPUT_NAMES = frozenset({"charged", "refused", *Grant.__dataclass_fields__, *Refusal.model_fields})
# Part of the request, and of each row of the output as well: whoever mails a link needs both.
_REPEATED = frozenset(ITEM_TEXTS) - OUTPUT_NAMES
# A column `URL` beside `url` would lead readers that ignore case to another address.
_LINK_NAMES = ("method", "url", "fields", "headers")
_SIMILARITY = 0.8  # of `expires` and `expires_in`; `name` and `filename` have 0.67

InputFormat = Literal["lines", "csv", "jsonl"]

FIRST_ROW: dict[InputFormat, int] = {"lines": 1, "csv": 2, "jsonl": 1}
"""The line of the first row with data: a header is in line 1."""

_FORMAT_BY_SUFFIX: dict[str, InputFormat] = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}


class LineReader:
    """The lines of a stream as text, each with its line ending, and a digest of all bytes read.

    Bytes that are not UTF-8 become lone surrogates, which no key may contain. The part of a line
    beyond 1 MiB is skipped, so that no line takes more memory than that.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._digest = sha256()
        self._is_first_line = True

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._read_line()
        if not line:
            raise StopIteration
        if len(line) == MAX_LINE_BYTES:
            self._skip_rest_of_line(line)
        encoding = "utf-8-sig" if self._is_first_line else "utf-8"
        self._is_first_line = False
        return line.decode(encoding, errors="surrogateescape")

    @property
    def digest(self) -> str:
        """The SHA-256 of all bytes read so far, in hexadecimal."""
        return self._digest.hexdigest()

    def _read_line(self) -> bytes:
        line = self._stream.readline(MAX_LINE_BYTES)
        self._digest.update(line)
        return line

    def _skip_rest_of_line(self, line: bytes) -> None:
        while line and not line.endswith(b"\n"):
            line = self._read_line()


def csv_records(lines: Iterator[str]) -> Iterator[tuple[int, list[str] | None]]:
    """Yield the line where each CSV record begins, and its cells, or None if it cannot be read.

    After such a record, reading continues with the line after the one where it began: a quote that
    is never closed makes its own line invalid, not the rest of the file.
    """
    source = _RewindableLines(lines)
    records = csv.reader(source, strict=True)
    while True:
        first_line = source.start_record()
        try:
            yield first_line, next(records)
        except StopIteration:
            return
        except csv.Error:
            source.rewind()
            yield first_line, None


class _RewindableLines:
    """Lines that can be read again, from the second line of the current record on."""

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._line_number = 0
        self._record_lines: list[str] = []
        self._rewound_lines: deque[str] = deque()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._rewound_lines.popleft() if self._rewound_lines else next(self._lines)
        self._line_number += 1
        self._record_lines.append(line)
        return line

    def start_record(self) -> int:
        """Begin a record, and return the number of its first line, counted from 1."""
        self._record_lines.clear()
        return self._line_number + 1

    def rewind(self) -> None:
        self._line_number -= len(self._record_lines) - 1
        self._rewound_lines.extendleft(reversed(self._record_lines[1:]))


class Columns(NamedTuple):
    """The columns that rows may have.

    known: the columns that become part of the request; required: those that each row needs.
    options: the options that apply to all rows alike, which no column can set.
    ignored: columns to leave out; copied: columns to copy to the output whatever their name
    resembles. `*` stands for all unknown columns. identity: the columns in which two rows may not
    have the same values.
    """

    known: Sequence[str]
    required: Sequence[str] = ("key",)
    ignored: Sequence[str] = ()
    copied: Sequence[str] = ()
    options: frozenset[str] = frozenset()
    identity: Sequence[str] = ("key",)

    def is_ignored(self, name: str) -> bool:
        """Return True for an unknown column that the output leaves out."""
        return name in self.ignored or "*" in self.ignored

    def reject_copy(self, name: str) -> str | None:
        """Return why an unknown column is not copied to the output, or None if it is."""
        shown = escape_unprintable(name)
        drop = "leave it out with --ignore-columns"
        if not name.strip():
            return f"there is a column without a name: name it, or {drop} '*'"
        if name in OUTPUT_NAMES:
            return f"the output has a column `{shown}` of its own: rename yours, or {drop} {shown}"
        if name in self.copied or "*" in self.copied:
            return None
        plain = _simplify(name)
        if plain in map(_simplify, self.options - set(self.known)):
            option = "--" + name.strip().lower().replace("_", "-").replace(" ", "-")
            text = f"`{shown}` is no column, but an option for all rows, {option}"
            return f"{text}: use that, {_hint(shown)}"
        if similar := _find_similar(plain, (*self.known, *self.options)):
            return f"the unknown column `{shown}` resembles `{similar}`: correct it, {_hint(shown)}"
        text = f"`{shown}` resembles the output's own column `{plain}`: rename it, {_hint(shown)}"
        return text if plain in _LINK_NAMES else None


def escape_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return copied values; one with text that is not valid UTF-8 becomes its escaped JSON."""
    return {name: v if is_encodable(v) else json.dumps(v) for name, v in values.items()}


def is_encodable(value: Any) -> bool:
    """Return False for a value with text that is not valid UTF-8."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def _hint(name: str) -> str:
    return (
        f"or copy it to the output with --copy-columns {name}, "
        f"or leave it out with --ignore-columns {name}"
    )


def _find_similar(plain: str, names: Iterable[str]) -> str | None:
    for name in names:
        if SequenceMatcher(None, plain, _simplify(name)).ratio() >= _SIMILARITY:
            return name
    return None


def _simplify(name: str) -> str:
    return "".join(character for character in name.casefold() if character.isalnum())


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
    return _REPEATED.intersection(header).union(copied)


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
    repeated = {name: value for name, value in given.items() if name in _REPEATED}
    return Row(number, given, repeated | copied)


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
