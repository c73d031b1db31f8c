"""The journal of a run: a file beside its output, from which an interrupted run is resumed.

Also reads the rows of a finished output again, from its CSV or JSON Lines file.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from itertools import repeat
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from valetkey.cli.row_errors import InputError, RowRefusal
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant

_CSV_START = "key,id,method,url,"

# Another program may have written the file: no number is one that divides, seeks or counts wrongly.
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Size = Annotated[int, Field(ge=1, lt=2**63)]


class FinishedRow(NamedTuple):
    """The text of an output row with its line ending, and its key.

    expires_at and limited_by are those of its grant, None if it was refused.
    """

    text: str
    key: str | None
    expires_at: datetime | None
    limited_by: str | None


def read_finished_rows(path: Path) -> Iterator[FinishedRow]:
    """Yield the rows of a finished output. Raises OSError, and InputError for any other file."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            start = stream.read(len(_CSV_START))
            stream.seek(0)
            yield from _read_csv(stream) if start == _CSV_START else map(_row_from_json, stream)
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RecursionError,
        TypeError,
        ValueError,
        csv.Error,
    ):
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
        yield _finished_row("".join(lines), row, is_refused=row["refused"] != "")
        lines.clear()


def _row_from_json(line: str) -> FinishedRow:
    row: dict[str, Any] = json.loads(line)
    return _finished_row(line, row, is_refused="code" in row)


def _finished_row(text: str, row: Mapping[str, Any], *, is_refused: bool) -> FinishedRow:
    if is_refused:
        return FinishedRow(text, row["key"], None, None)
    expires_at = datetime.fromisoformat(row["expires_at"]).astimezone(UTC)
    return FinishedRow(text, row["key"], expires_at, row["limited_by"])


class BulkPlan(NamedTuple):
    """The batch ids of an input by expiry group, and the sizes of its batches and chunks."""

    batch_ids: list[list[str]]
    batch_size: _Size
    chunk_size: _Size


class Checkpoint(NamedTuple):
    """The complete part of an output.

    It has a number of rows and of bytes, of refusals among the rows, of refusals by code, and of
    rows that are invalid. expiries is the number of grants by the lifetime that was requested for
    them, and by the second in which they expire.
    """

    rows: _Count = 0
    bytes: _Count = 0
    refused: _Count = 0
    codes: dict[str, int] | None = None
    invalid: _Count = 0
    expiries: dict[_Count, dict[_Count, _Count]] | None = None

    @property
    def granted(self) -> int:
        """The number of grants among the rows."""
        return self.rows - self.refused

    def count_short(self, min_left: int | None, now: float) -> tuple[int, int]:
        """Return how many grants have expired, and how many others have too little time left.

        That is less than min_left seconds, by default less than a tenth of the requested lifetime.
        With 0, nothing is counted.
        """
        if min_left == 0:
            return 0, 0
        expired = short = 0
        for lifetime, counts in (self.expiries or {}).items():
            needed = lifetime / 10 if min_left is None else min_left
            for second, count in counts.items():
                expired += count if second <= now else 0
                short += count if now < second < now + needed else 0
        return expired, short

    def advance(
        self, result: Grant | Refusal | FinishedRow, size: int, lifetime: int = 0
    ) -> "Checkpoint":
        """Return the checkpoint after one more row of `size` bytes; both share the expiries.

        lifetime is what was requested, in seconds. If something else limits the grant, its lifetime
        is no other than it was when it was new, and only its expiry counts.
        """
        refused, codes, expiries = self.refused, self.codes, self.expiries
        invalid = self.invalid + isinstance(result, RowRefusal)
        if isinstance(result, Refusal):
            refused += 1
            codes = dict(codes or {})
            codes[result.code] = codes.get(result.code, 0) + 1
        elif result.expires_at is None:
            refused += 1
        else:
            lifetime = lifetime if result.limited_by == "request" else 0
            expiries = {} if expiries is None else expiries
            counts = expiries.setdefault(lifetime, {})
            second = int(result.expires_at.timestamp())
            counts[second] = counts.get(second, 0) + 1
        return Checkpoint(self.rows + 1, self.bytes + size, refused, codes, invalid, expiries)


def count_rows(path: Path, lifetimes: Iterable[int] = repeat(0)) -> Checkpoint | None:
    """Return the counts of a finished output; None if it is another file. Raises OSError.

    lifetimes are those that were requested for its rows.
    """
    counts = Checkpoint()
    try:
        for row, lifetime in zip(read_finished_rows(path), lifetimes, strict=False):
            counts = counts.advance(row, 0, lifetime)
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
