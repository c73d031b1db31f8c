"""The rows of a finished output, read again from its CSV or JSON Lines file."""

import csv
import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from valetkey.cli.bulk.row_errors import InputError

_CSV_START = "key,id,method,url,"


class FinishedRow(NamedTuple):
    """The text of an output row with its line ending, its key, and its expiry if it was granted."""

    text: str
    key: str | None
    expires_at: datetime | None


class GrantCounts(NamedTuple):
    """The content of a finished output: its grants, its refusals and the earliest expiry."""

    granted: int
    refused: int
    first_expiry: datetime | None


def read_finished_rows(path: Path) -> Iterator[FinishedRow]:
    """Yield the rows of a finished output. Raises OSError, and InputError for any other file."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            start = stream.read(len(_CSV_START))
            stream.seek(0)
            yield from _read_csv(stream) if start == _CSV_START else map(_row_from_json, stream)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error):
        raise InputError(
            f"{path} is no CSV or JSON Lines file as it was written: it was changed, or it is "
            "another file or format"
        ) from None


def count_grants(path: Path) -> GrantCounts | None:
    """Count the content of a finished output; None if it is another file. Raises OSError."""
    granted, refused, first_expiry = 0, 0, None
    try:
        for row in read_finished_rows(path):
            if row.expires_at is None:
                refused += 1
            else:
                granted += 1
                first_expiry = min(first_expiry or row.expires_at, row.expires_at)
    except InputError:
        return None
    return GrantCounts(granted, refused, first_expiry)


def _read_csv(stream: Iterable[str]) -> Iterator[FinishedRow]:
    lines = _RecordedLines(stream)
    records = csv.reader(lines, strict=True)
    heading = next(records)
    lines.take_text()
    for cells in records:
        row = dict(zip(heading, cells, strict=True))
        expiry = None if row["refused"] else datetime.fromisoformat(row["expires_at"])
        yield FinishedRow(lines.take_text(), row["key"], expiry)


class _RecordedLines:
    """Lines that remember their text, so that a record is copied byte for byte."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self._taken.append(next(self._lines))
        return self._taken[-1]

    def take_text(self) -> str:
        text = "".join(self._taken)
        self._taken.clear()
        return text


def _row_from_json(line: str) -> FinishedRow:
    row: dict[str, Any] = json.loads(line)
    expiry = None if "code" in row else datetime.fromisoformat(row["expires_at"])
    return FinishedRow(line, row["key"], expiry)
