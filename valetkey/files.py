"""Rows in and answers out: what `--from` reads, and what `--json`, `--csv` and `--out` write."""

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EEXIST
from pathlib import Path
from typing import IO, Any, TextIO

from pydantic import ValidationError

from valetkey.messages import Grant, Item
from valetkey.refusals import Refusal

Write = Callable[[Grant | Refusal], None]
_COLUMNS = ("key", "id", "method", "url", "fields", "headers", "expires_at", "limited_by")
_REFUSED = ("refused", "field", "message")
_OF_ROW = ("key", "filename", "version_id")


class BadRow(ValueError):
    """A row that names no object; the message says which row and why."""


class Rows:
    """The items of a file, read afresh on every pass: a million of them take no memory."""

    def __init__(self, stream: IO[bytes], read: Callable[[IO[bytes]], Iterator[Item]]) -> None:
        self._stream = stream
        self._read = read
        self._length = sum(1 for _ in self)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Item]:
        self._stream.seek(0)
        return self._read(self._stream)


@contextmanager
def rows(name: str, stdin: IO[bytes]) -> Iterator[Rows]:
    """The items that a file names, in UTF-8: one key a line, or by its ending .csv or .jsonl.

    A CSV file has a `key` column, a line of .jsonl is an object with a `key`; `filename` and
    `version_id` are optional in both, and what else they hold is ignored. `-` is stdin, a key a
    line. All is read once before anything is returned. Raises OSError, and BadRow for the first
    row that is wrong.
    """
    read = {".csv": _csv, ".jsonl": _json_lines}.get(Path(name).suffix.lower(), _lines)
    if name == "-":
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stdin, copy)
            yield Rows(copy, read)
    else:
        with Path(name).open("rb") as stream:
            yield Rows(stream, read)


@contextmanager
def written(path: Path) -> Iterator[TextIO]:
    """A file only its owner may read, that takes its name when it is complete.

    Until then, or if it never is, it has the name that partial() gives. Raises OSError.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(EEXIST, "not a regular file", str(path))
    unfinished = partial(path)
    unfinished.unlink(missing_ok=True)
    # Exclusive, so that nobody's link or file of that name is written through.
    descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as stream:
        yield stream
    unfinished.replace(path)


def partial(path: Path) -> Path:
    """The name of a file that is not complete yet."""
    return path.with_name(f"{path.name}.partial")


def json_lines(out: TextIO) -> Write:
    """Write each answer as one JSON object, as it came over the wire; a refusal has a `code`."""
    return lambda answer: print(answer.model_dump_json(), file=out)


def csv_rows(out: TextIO) -> Write:
    """Write each answer as a CSV row; the columns of what it is not stay empty."""
    rows = csv.DictWriter(out, (*_COLUMNS, *_REFUSED), lineterminator="\n", extrasaction="ignore")
    rows.writeheader()

    def write(answer: Grant | Refusal) -> None:
        row = answer.model_dump(mode="json")
        if isinstance(answer, Grant):
            rows.writerow(row | {name: json.dumps(row[name]) for name in ("fields", "headers")})
        else:
            rows.writerow(row | {"refused": row["code"]})

    return write


def text(show: Callable[[Grant], str]) -> Callable[[TextIO], Write]:
    """Write each grant as show says, and refusals not at all."""

    def writer(out: TextIO) -> Write:
        def write(answer: Grant | Refusal) -> None:
            if isinstance(answer, Grant):
                print(show(answer), file=out)

        return write

    return writer


def _lines(stream: IO[bytes]) -> Iterator[Item]:
    for _, line in _numbered(stream):
        key = line.rstrip("\r\n")
        if key:
            yield Item(key=key)


def _json_lines(stream: IO[bytes]) -> Iterator[Item]:
    for number, line in _numbered(stream):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise BadRow(f"line {number} is not JSON") from None
        yield _item(row if isinstance(row, dict) else {}, number)


def _csv(stream: IO[bytes]) -> Iterator[Item]:
    table = csv.DictReader((line for _, line in _numbered(stream)), strict=True)
    try:
        if "key" not in (table.fieldnames or ()):
            raise BadRow("line 1 names no column `key`")
        for row in table:
            if None in row or None in row.values():
                raise BadRow(f"line {table.line_num} has not as many cells as line 1")
            said = {name: value for name, value in row.items() if value or name == "key"}
            yield _item(said, table.line_num)
    except csv.Error as error:
        raise BadRow(f"line {table.line_num}: {error}") from None


def _numbered(stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(stream, 1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise BadRow(f"line {number} is not UTF-8") from None


def _item(row: dict[str, Any], number: int) -> Item:
    named = {name: row[name] for name in _OF_ROW if row.get(name) is not None}
    try:
        "".join(named.values()).encode()  # JSON can spell what UTF-8 cannot
        return Item.model_validate(named)
    except (TypeError, UnicodeEncodeError, ValidationError):
        text = (
            f"line {number}: a row has a `key` and may have a `filename` or `version_id`, as text"
        )
        raise BadRow(text) from None
