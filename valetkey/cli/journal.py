"""The journal of a run: a file beside its output, from which an interrupted run is resumed.

Also reads the rows of a finished output again, from its CSV or JSON Lines file.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from valetkey.cli.row_errors import InputError, RowRefusal
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant

_CSV_START = "key,id,method,url,"

# Another program may have written the file: no number is one that divides, seeks or counts wrongly.
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Size = Annotated[int, Field(ge=1, lt=2**63)]


class FinishedRow(NamedTuple):
    """The text of an output row with its line ending, its key, and its expiry if it was granted."""

    text: str
    key: str | None
    expires_at: datetime | None


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


def _read_csv(stream: Iterable[str]) -> Iterator[FinishedRow]:
    lines: list[str] = []  # of the current record, so that it is copied byte for byte

    def record_lines() -> Iterator[str]:
        for line in stream:
            lines.append(line)
            yield line

    records = csv.reader(record_lines(), strict=True)
    heading = next(records)
    lines.clear()
    for cells in records:
        row = dict(zip(heading, cells, strict=True))
        expiry = None if row["refused"] else datetime.fromisoformat(row["expires_at"])
        yield FinishedRow("".join(lines), row["key"], expiry)
        lines.clear()


def _row_from_json(line: str) -> FinishedRow:
    row: dict[str, Any] = json.loads(line)
    expiry = None if "code" in row else datetime.fromisoformat(row["expires_at"])
    return FinishedRow(line, row["key"], expiry)


class BulkPlan(NamedTuple):
    """The batch ids of an input by expiry group, and the sizes of its batches and chunks."""

    batch_ids: list[list[str]]
    batch_size: _Size
    chunk_size: _Size


class Checkpoint(NamedTuple):
    """The complete part of an output.

    It has a number of rows and of bytes, of refusals among the rows, the earliest expiry of a
    grant, the number of refusals by code, and of rows that are invalid.
    """

    rows: _Count = 0
    bytes: _Count = 0
    refused: _Count = 0
    first_expiry: AwareDatetime | None = None
    codes: dict[str, int] | None = None
    invalid: _Count = 0

    @property
    def granted(self) -> int:
        """The number of grants among the rows."""
        return self.rows - self.refused

    def advance(self, result: Grant | Refusal | FinishedRow, size: int) -> "Checkpoint":
        """Return the checkpoint after one more row, which takes `size` bytes."""
        refused, first_expiry, codes = self.refused, self.first_expiry, self.codes
        invalid = self.invalid + isinstance(result, RowRefusal)
        if isinstance(result, Refusal):
            refused += 1
            codes = dict(codes or {})
            codes[result.code] = codes.get(result.code, 0) + 1
        elif result.expires_at is None:
            refused += 1
        else:
            first_expiry = min(first_expiry or result.expires_at, result.expires_at)
        return Checkpoint(self.rows + 1, self.bytes + size, refused, first_expiry, codes, invalid)


def count_rows(path: Path) -> Checkpoint | None:
    """Return the counts of a finished output; None if it is another file. Raises OSError."""
    counts = Checkpoint()
    try:
        for row in read_finished_rows(path):
            counts = counts.advance(row, 0)
    except InputError:
        return None
    return counts


class Journal(BaseModel):
    """The input and the options of a run, and its progress. It contains no secret.

    input_sha256 is the digest of an input with `total` rows. copied_columns are the columns of the
    input that the output has, too.

    The journal of a finished output is kept while the output has refused rows. A run that requests
    these rows again keeps the other rows of the output; kept_bytes is the output's size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1] = 1
    input_sha256: str
    total: _Count
    request: dict[str, Any]
    batch_plan: BulkPlan
    checkpoint: Checkpoint = Checkpoint()
    copied_columns: list[str] = []
    is_finished: bool = False
    kept_bytes: _Count | None = None

    @property
    def is_retriable(self) -> bool:
        """True if rows were refused that can be requested again.

        The output needs a row for each of them, and invalid rows are refused in any case.
        """
        has_rows = self.request.get("output_format") in ("csv", "json")
        return has_rows and self.checkpoint.refused > self.checkpoint.invalid


def find_changed_option(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return the name of the first option whose value differs, or None."""
    names = sorted(before.keys() | now.keys())
    return next((name for name in names if before.get(name) != now.get(name)), None)


def journal_path(out: Path) -> Path:
    """Return the path of the journal of an output."""
    return out.with_name(f"{out.name}.resume.json")


def save_journal(out: Path, journal: Journal) -> None:
    """Write the journal of an output atomically, readable by its owner only. Raises OSError."""
    write_private(journal_path(out), journal.model_dump_json() + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file atomically, readable by its owner only. Raises OSError."""
    new_path = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):
        new_path.unlink()
    descriptor = os.open(new_path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    new_path.replace(path)


def load_journal(out: Path) -> Journal | None:
    """Return the journal of an output, or None. Raises InputError if it cannot be read."""
    path = journal_path(out)
    try:
        return Journal.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise InputError(
            f"{path} is not the journal of an interrupted run: add --force to start over, "
            "which requests all rows again and charges for them again"
        ) from None
