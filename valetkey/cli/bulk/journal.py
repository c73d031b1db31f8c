"""The journal of a run: a file beside its output, from which an interrupted run is resumed."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from valetkey.cli.bulk.row_errors import InputError
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant


class BulkPlan(NamedTuple):
    """The batch ids of an input by expiry group, and the sizes of its batches and chunks."""

    batch_ids: list[list[str]]
    batch_size: int
    chunk_size: int


class Checkpoint(NamedTuple):
    """The complete part of an output: rows, bytes, refusals among the rows, earliest expiry."""

    rows: int = 0
    bytes: int = 0
    refused: int = 0
    first_expiry: AwareDatetime | None = None

    def advance(self, result: Grant | Refusal, size: int) -> "Checkpoint":
        """Return the checkpoint after one more row, which takes `size` bytes."""
        refused, first_expiry = self.refused, self.first_expiry
        if isinstance(result, Refusal):
            refused += 1
        else:
            first_expiry = min(first_expiry or result.expires_at, result.expires_at)
        return Checkpoint(self.rows + 1, self.bytes + size, refused, first_expiry)


class Journal(BaseModel):
    """The input and the options of a run, and its progress. It contains no secret.

    input_sha256 is the digest of an input with `total` rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1] = 1
    input_sha256: str
    total: int
    request: dict[str, Any]
    batch_plan: BulkPlan
    checkpoint: Checkpoint = Checkpoint()

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
            f"{path} is not the journal of an interrupted run: remove the file to start over, "
            "which requests all rows again and charges for them again"
        ) from None
