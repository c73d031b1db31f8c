"""Where a run stands: beside its output until it is complete, for an interrupted one to go on."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, ValidationError

from valetkey.cli.bulk.row_errors import InputError
from valetkey.wire.messages import Grant
from valetkey.wire.refusals import Refusal


class BatchPlan(NamedTuple):
    """How an input is cut into batches: their ids, by life and in order, and their sizes."""

    batches: list[list[str]]
    batch_size: int
    chunk_size: int


class Checkpoint(NamedTuple):
    """So much of the output is whole: rows and bytes, how many are refusals, the first expiry."""

    rows: int = 0
    bytes: int = 0
    refused: int = 0
    first_end: AwareDatetime | None = None

    def after(self, answer: Grant | Refusal, size: int) -> "Checkpoint":
        """The mark behind one more row of `size` bytes."""
        if isinstance(answer, Refusal):
            return Checkpoint(self.rows + 1, self.bytes + size, self.refused + 1, self.first_end)
        end = answer.expires_at
        first = end if self.first_end is None else min(self.first_end, end)
        return Checkpoint(self.rows + 1, self.bytes + size, self.refused, first)


class Journal(BaseModel):
    """What a run was begun with, and how far it has come. There is no secret in it.

    input is a SHA-256 of what has total rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    v: Literal[1] = 1
    input: str
    total: int
    request: dict[str, Any]
    cut: BatchPlan
    mark: Checkpoint = Checkpoint()

    def at(self, mark: Checkpoint) -> Self:
        """The same run, further on."""
        return self.model_copy(update={"mark": mark})

    def differs(self, digest: str, request: Mapping[str, Any]) -> str | None:
        """What is not as it was when the run was begun: of the input, or of the request."""
        if digest != self.input:
            return "input"
        names = sorted(request.keys() | self.request.keys())
        changed = (name for name in names if request.get(name) != self.request.get(name))
        return next(changed, None)


def journal_path(out: Path) -> Path:
    """Where the journal of an output is."""
    return out.with_name(f"{out.name}.resume.json")


def save_journal(out: Path, journal: Journal) -> None:
    """Write it for its owner alone, all of it or nothing. Raises OSError."""
    path = journal_path(out)
    new = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):
        new.unlink()
    descriptor = os.open(new, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(journal.model_dump_json() + "\n")
    new.replace(path)


def load_journal(out: Path) -> Journal | None:
    """The journal of an output, if there is one. Raises BadInput where it cannot be read."""
    path = journal_path(out)
    try:
        return Journal.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise InputError(f"{path} is not what an interrupted run leaves") from None
