"""Output files that appear under their name when complete, and can be resumed until then.

The grants in an existing file are charged already, so it is not replaced without --force.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from errno import EEXIST
from pathlib import Path
from typing import IO, BinaryIO

import click

from valetkey.cli.descriptions import describe_counts
from valetkey.cli.formats import RowResult
from valetkey.cli.journal import (
    Checkpoint,
    FinishedRow,
    Journal,
    count_rows,
    journal_path,
    load_journal,
    save_journal,
)
from valetkey.cli.row_errors import InputError
from valetkey.errors import NotConfigured, Refused
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

try:
    import fcntl
except ImportError:  # Windows has neither this module nor os.O_NOFOLLOW and os.getuid
    fcntl = None  # type: ignore[assignment]

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)

_FORCE = "--force to replace it, which requests and charges everything again"


class RowWriter:
    """Writes rows to the partial file of a path, from the checkpoint of its journal on.

    With a journal, it is saved after every chunk of rows. kept counts the rows that were copied
    from a finished output.
    """

    def __init__(self, stream: BinaryIO, path: Path, journal: Journal | None) -> None:
        checkpoint = journal.checkpoint if journal else Checkpoint()
        if os.fstat(stream.fileno()).st_size < checkpoint.bytes:
            checkpoint = Checkpoint()  # requesting the lost rows again uses no quota
        stream.seek(checkpoint.bytes)
        self.checkpoint = checkpoint
        self.kept = 0
        self._stream = stream
        self._path = path
        self._journal = journal

    def write_heading(self, text: str) -> None:
        """Write the heading above all rows, unless the file already has it."""
        if not self.checkpoint.bytes:
            data = text.encode()
            self._stream.write(data)
            self.checkpoint = self.checkpoint._replace(bytes=len(data))

    def write_row(self, text: str, result: RowResult, lifetime: int) -> None:
        """Write the row of one result, and save the checkpoint after every chunk of rows.

        lifetime is what was requested for it, in seconds.
        """
        data = text.encode()
        self._stream.write(data)
        self.checkpoint = self.checkpoint.advance(result, len(data), lifetime)
        self.kept += isinstance(result, FinishedRow)
        if self.checkpoint.rows % DEFAULT_CHUNK_ITEMS == 0:
            self.save()

    def save(self) -> None:
        """Flush the rows and save the checkpoint, so that a run can be resumed from here."""
        self._stream.flush()
        if self._journal is not None:
            values = {"checkpoint": self.checkpoint}
            save_journal(self._path, self._journal.model_copy(update=values))

    def finish(self) -> None:
        """Remove an incomplete last row and save the checkpoint."""
        self._stream.flush()
        self._stream.truncate(self.checkpoint.bytes)
        self.save()


@contextmanager
def atomic_output(path: Path, journal: Journal | None = None) -> Iterator[RowWriter]:
    """Open a file that only its owner may read, under a temporary name until it is complete.

    With a journal, the run is resumable: the journal is saved beside the file before the first row.
    If the block ends early, the run continues from the journal's checkpoint. After the last row,
    the journal is removed, or kept if it is retriable, so that refused rows can be requested again.
    Raises OSError.
    """
    check_file_type(path)
    has_journal = journal_path(path).exists()
    if journal is None and has_journal and not remove_old_journal(path):
        cause = "an interrupted run can be resumed from this file: remove it or name another --out"
        raise FileExistsError(EEXIST, cause, str(journal_path(path)))
    partial = partial_path(path)
    with os.fdopen(_open_partial(partial, is_resumed=has_journal), "wb") as stream:
        _lock(stream, partial)
        output = RowWriter(stream, path, journal)
        output.save()
        try:
            yield output
        except BaseException:  # KeyboardInterrupt included
            output.finish()
            if journal is None and not output.checkpoint.granted:
                partial.unlink()  # nothing in it was charged: leave no file behind
            raise
        output.finish()
    if journal is None:
        partial.replace(path)
        return
    # The journal first: a process that is killed in between leaves a complete partial file.
    values = {"checkpoint": output.checkpoint, "is_finished": True, "kept_bytes": None}
    finished = journal.model_copy(update=values)
    save_journal(path, finished)
    settle_output(path, finished)


def settle_output(path: Path, journal: Journal) -> None:
    """Give a finished output its name, and remove a journal that is of no more use."""
    partial = partial_path(path)
    if partial.exists() and partial.stat().st_size == journal.checkpoint.bytes:
        partial.replace(path)
    if not journal.is_retriable:
        journal_path(path).unlink(missing_ok=True)


@contextmanager
def replaced_output(path: Path) -> Iterator[None]:
    """Mark a finished output as one that this block replaces, until the first row is requested.

    The mark is an empty partial file. If the block is interrupted, the mark stays, and --resume
    starts over instead of taking the old output for that of the interrupted run. Bad options, bad
    input or a refusal remove it, unless another run writes the partial file. Raises OSError.
    """
    partial = partial_path(path)
    is_marked = _has_content(path) and not partial.exists()
    if is_marked:
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    try:
        yield
    except (click.UsageError, InputError, NotConfigured, Refused):
        if is_marked and not _has_content(partial):
            with suppress(OSError):  # another run has begun to write it
                _unlink_partial(partial)
        raise


def is_being_replaced(path: Path, journal: Journal | None) -> bool:
    """Return whether a run that replaces a finished output ended before its first row."""
    partial = partial_path(path)
    has_run = journal is not None and not journal.is_finished
    return not has_run and _has_content(path) and partial.is_file() and not _has_content(partial)


def remove_old_journal(path: Path) -> bool:
    """Remove the journal of a finished output that is not there any more; False if it is in use.

    Raises InputError if it cannot be read.
    """
    journal = load_journal(path)
    if journal is not None and journal.is_finished and not path.exists():
        journal_path(path).unlink()
        return True
    return journal is None


def check_file_type(path: Path) -> None:
    """Raise FileExistsError if an output cannot replace what is there, such as a device."""
    if path.exists() and not path.is_file():
        raise FileExistsError(EEXIST, "not a regular file", str(path))


def discard_run(path: Path) -> None:
    """Remove the partial file and the journal of an interrupted run. Raises OSError."""
    _unlink_partial(partial_path(path))
    journal_path(path).unlink(missing_ok=True)


def partial_path(path: Path) -> Path:
    """Return the temporary name of a file that is not complete yet."""
    return path.with_name(f"{path.name}.partial")


def _open_partial(path: Path, *, is_resumed: bool) -> int:
    if not is_resumed:
        _unlink_partial(path)
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | _NO_FOLLOW, 0o600)
    status = os.fstat(descriptor)
    is_foreign = hasattr(os, "getuid") and status.st_uid != os.getuid()
    if is_foreign or not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise FileExistsError(EEXIST, "not a regular file that you own", str(path))
    if os.name == "posix":
        os.fchmod(descriptor, 0o600)
    return descriptor


def _unlink_partial(path: Path) -> None:
    """Remove a partial file, unless another run is writing it."""
    if path.is_file() and not path.is_symlink():
        with path.open("rb") as stream:
            _lock(stream, path)
    path.unlink(missing_ok=True)


def _lock(stream: IO[bytes], path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileExistsError(EEXIST, "another run is writing it", str(path)) from None
    except OSError:  # some file systems do not support locks
        return


def reject_existing_output(out: Path, journal: Journal | None = None, *, is_bulk: bool) -> None:
    """Raise click.UsageError if a file would be lost. An empty file is no loss.

    journal is that of the finished output, if it has one. Raises OSError, and InputError if there
    is another journal that cannot be read.
    """
    check_file_type(out)
    partial = partial_path(out)
    if journal is None and not _has_content(out) and not remove_old_journal(out):
        raise click.UsageError(
            f"{journal_path(out)} belongs to an interrupted run with --from: continue it with "
            f"--resume, name another --out, or add {_FORCE}"
        )
    if journal is None and _has_content(partial):
        raise click.UsageError(
            f"{partial} has the rows of a command that did not end, which are charged: "
            f"move it away, or add {_FORCE}"
        )
    if not _has_content(out):
        return
    written = datetime.fromtimestamp(out.stat().st_mtime, UTC)
    counts = count_rows(out)
    text = f"{out} exists, written {written:%Y-%m-%d %H:%M} UTC"
    if counts is not None:
        text += f", with {describe_counts(counts.granted, counts.refused)}"
    ways = _FORCE
    if journal is not None:
        refused = journal.checkpoint.refused
        ways = f"--resume to request the {refused:,} refused rows alone, or {_FORCE}"
    elif is_bulk and counts is not None and not counts.refused:
        ways = f"--resume to check that it is complete, or {_FORCE}"
    raise click.UsageError(f"{text}; nothing was requested: add {ways}")


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
