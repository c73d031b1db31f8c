"""The journal of a run: a file beside its output, from which an interrupted run is resumed."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from valetkey.cli.bulk.finished_output import FinishedRow
from valetkey.cli.bulk.row_errors import InputError, RowRefusal
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant

# Another program may have written the file: no number is one that divides, seeks or counts wrongly.
_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Size = Annotated[int, Field(ge=1, lt=2**63)]


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
        elif result.expires_at is not None:
            first_expiry = min(first_expiry or result.expires_at, result.expires_at)
        return Checkpoint(self.rows + 1, self.bytes + size, refused, first_expiry, codes, invalid)


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

    def with_checkpoint(self, checkpoint: Checkpoint) -> Self:
        """Return the journal of the same run at a later checkpoint."""
        return self.model_copy(update={"checkpoint": checkpoint})

    def find_difference(self, input_sha256: str, request: Mapping[str, Any]) -> str | None:
        """Return what differs from this run: `input`, the name of an option, or None."""
        if input_sha256 != self.input_sha256:
            return "input"
        names = sorted(request.keys() | self.request.keys())
        changed = (name for name in names if request.get(name) != self.request.get(name))
        return next(changed, None)


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
