"""Output that takes its name when it is complete, and until then can be gone on with."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from errno import EEXIST
from pathlib import Path
from typing import BinaryIO

from valetkey.cli.bulk import journal
from valetkey.cli.bulk.journal import Checkpoint, Journal
from valetkey.cli.formats import Answer
from valetkey.wire.messages import DEFAULT_CHUNK_ITEMS

try:
    import fcntl
except ImportError:  # Windows has none, nor what is asked for by name below
    fcntl = None  # type: ignore[assignment]

_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


class AtomicFile:
    """A file under way, row by row; mark is behind the last that is whole."""

    def __init__(
        self, stream: BinaryIO, mark: Checkpoint, save: Callable[[Checkpoint], None]
    ) -> None:
        self.mark = mark
        self._stream = stream
        self._save = save

    def head(self, text: str) -> None:
        """Write what stands above all rows, unless it stands there."""
        if not self.mark.bytes:
            data = text.encode()
            self._stream.write(data)
            self.mark = self.mark._replace(bytes=len(data))

    def write(self, text: str, answer: Answer) -> None:
        """Write one row."""
        data = text.encode()
        self._stream.write(data)
        self.mark = self.mark.after(answer, len(data))
        if self.mark.rows % DEFAULT_CHUNK_ITEMS == 0:
            self.save()

    def save(self) -> None:
        """Let it be gone on with from here, whatever happens."""
        self._stream.flush()
        self._save(self.mark)

    def end(self) -> None:
        """Leave no more than whole rows."""
        self._stream.flush()
        self._stream.truncate(self.mark.bytes)
        self._save(self.mark)


@contextmanager
def atomic_output(path: Path, run: Journal | None = None) -> Iterator[AtomicFile]:
    """A file that only its owner may read, and that has another name until it is complete.

    With a run, its journal stands beside it from before the first row until after the last one:
    whatever ends the block too early, the run can be gone on with from the journal's mark. Raises
    OSError.
    """
    if path.exists() and not path.is_file():
        raise FileExistsError(EEXIST, "not a regular file", str(path))
    if run is None and journal.journal_path(path).exists():
        raise FileExistsError(
            EEXIST, "of a run that was interrupted", str(journal.journal_path(path))
        )
    anew = run is None or not journal.journal_path(path).exists()
    with os.fdopen(_opened(partial_path(path), anew=anew), "wb") as stream:
        _lock(stream, partial_path(path))
        output = AtomicFile(
            stream, _gone_back(stream, run.mark if run else Checkpoint()), _saving(path, run)
        )
        output.save()
        try:
            yield output
        finally:
            output.end()
    partial_path(path).replace(path)
    if run is not None:
        journal.journal_path(path).unlink()


def partial_path(path: Path) -> Path:
    """The name of a file that is not complete yet."""
    return path.with_name(f"{path.name}.partial")


def _opened(path: Path, *, anew: bool) -> int:
    if anew:
        path.unlink(missing_ok=True)
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | _NO_LINK, 0o600)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
        os.close(descriptor)
        raise FileExistsError(EEXIST, "not a file of yours", str(path))
    return descriptor


def _lock(stream: BinaryIO, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise FileExistsError(EEXIST, "another run is writing it", str(path)) from None
    except OSError:  # some file systems know no locks
        return


def _gone_back(stream: BinaryIO, mark: Checkpoint) -> Checkpoint:
    """Go on at the mark, or at the beginning where the file has not so much."""
    if os.fstat(stream.fileno()).st_size < mark.bytes:
        mark = Checkpoint()  # to ask again for what is lost costs no quota
    stream.seek(mark.bytes)
    return mark


def _saving(path: Path, run: Journal | None) -> Callable[[Checkpoint], None]:
    if run is None:
        return lambda _: None
    return lambda mark: journal.save_journal(path, run.at(mark))
