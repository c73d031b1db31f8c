"""A file that gets its name when it is complete, and the journal to continue it from."""

import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from errno import EEXIST
from pathlib import Path
from typing import IO, Any

from valetkey.cli.bulk.journal import journal_path, write_private
from valetkey.cli.results.atomic_output import partial_path
from worker.db.audit.stream import Bound, Position


class JournalUnreadable(ValueError):
    """The journal of an interrupted export is damaged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportJournal:
    """The progress of an export: its options, its bound, and what the partial file contains.

    options are as typed. since and until are the moments that they meant when the export began.
    position is None before the first chunk.
    """

    options: Mapping[str, Any]
    since: datetime | None
    until: datetime | None
    bound: Bound
    position: Position | None = None
    rows: int = 0
    bytes: int = 0

    def to_json(self) -> str:
        """Return the text of the journal's file."""
        moments = self.since, self.until, self.bound.decided_before
        since, until, decided_before = (moment and moment.isoformat() for moment in moments)
        values = {
            "options": dict(self.options),
            "since": since,
            "until": until,
            "bound": [self.bound.batch_number, decided_before],
            "position": self.position,
            "rows": self.rows,
            "bytes": self.bytes,
        }
        return json.dumps(values) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ExportJournal":
        """Parse the text of a journal. Raises JournalUnreadable."""
        try:
            values = json.loads(text)
            batch_number, decided_before = values["bound"]
            since, until = (
                values[name] and datetime.fromisoformat(values[name]) for name in ("since", "until")
            )
            position = values["position"] and Position(*map(int, values["position"]))
            bound = Bound(int(batch_number), datetime.fromisoformat(decided_before))
            return cls(
                options=dict(values["options"]),
                since=since,
                until=until,
                bound=bound,
                position=position,
                rows=int(values["rows"]),
                bytes=int(values["bytes"]),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise JournalUnreadable(str(error)) from None


def load_journal(path: Path) -> ExportJournal | None:
    """Return the journal of an interrupted export to a file, if there is one.

    Raises JournalUnreadable.
    """
    try:
        return ExportJournal.from_json(journal_path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise JournalUnreadable(str(error)) from None


def save_journal(path: Path, journal: ExportJournal) -> None:
    """Save the journal of an export to a file. Raises OSError."""
    write_private(journal_path(path), journal.to_json())


def discard(path: Path) -> None:
    """Remove what an interrupted export has left. Raises OSError, also if it is still running."""
    partial = partial_path(path)
    if partial.exists():
        with partial.open("rb") as stream:
            _lock(stream, partial)
    partial.unlink(missing_ok=True)
    journal_path(path).unlink(missing_ok=True)


@contextmanager
def open_partial(path: Path, journal: ExportJournal) -> Iterator[tuple[IO[bytes], ExportJournal]]:
    """Open the partial file of an export after its journal's bytes, for its owner only.

    If the file is shorter than the journal says, it begins anew. At the end of the block, the file
    gets its name and the journal is removed. If the block raises, both stay. Raises OSError.
    """
    partial = partial_path(path)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
    with os.fdopen(os.open(partial, flags, 0o600), "r+b", buffering=2**20) as stream:
        _check_private(stream, partial)
        _lock(stream, partial)
        if os.fstat(stream.fileno()).st_size < journal.bytes:
            journal = replace(journal, position=None, rows=0, bytes=0)
        stream.truncate(journal.bytes)
        save_journal(path, journal)
        yield stream, journal
        stream.flush()
        os.fsync(stream.fileno())
        partial.replace(path)
    _sync_folder(path.parent)
    journal_path(path).unlink(missing_ok=True)


def _check_private(stream: IO[bytes], path: Path) -> None:
    """Raise FileExistsError for a file that another account has prepared, in a shared folder."""
    status = os.fstat(stream.fileno())
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1 or status.st_uid != os.geteuid():
        raise FileExistsError(EEXIST, "another account can read it: remove it", str(path))
    os.fchmod(stream.fileno(), 0o600)


def _lock(stream: IO[bytes], path: Path) -> None:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileExistsError(EEXIST, "another export is writing it", str(path)) from None


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
