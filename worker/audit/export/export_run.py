"""Writes an export to a file that is named when complete, and a journal to resume it from."""

import fcntl
import json
import os
import stat
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from errno import EEXIST
from hashlib import sha256
from pathlib import Path
from time import monotonic
from typing import IO, Any, NamedTuple, Protocol

from sqlalchemy import Connection

from valetkey.cli.atomic_output import partial_path
from valetkey.cli.journal import journal_path, write_private
from worker.audit.audit_rows import Bound, ChunkItems, StreamPosition, stream_blocks
from worker.audit.grant_filters import GrantFilter


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
    position: StreamPosition | None = None
    rows: int = 0
    bytes: int = 0

    def to_json(self) -> str:
        """Return the text of the journal's file."""
        return json.dumps(asdict(self), default=datetime.isoformat) + "\n"

    @classmethod
    def from_json(cls, text: str) -> "ExportJournal":
        """Parse the text of a journal. Raises JournalUnreadable."""
        try:
            values = json.loads(text)
            batch_number, decided_before = values["bound"]
            since, until = (
                values[name] and datetime.fromisoformat(values[name]) for name in ("since", "until")
            )
            position = values["position"] and StreamPosition(*map(int, values["position"]))
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


_SECONDS_PER_CHECKPOINT = 5.0
_HASHED_BYTES = 2**20


class RowWriter(Protocol):
    """Writes blocks of rows to a stream in one format."""

    def write(self, block: list[ChunkItems]) -> None:
        """Write the rows of a block."""

    def finish(self) -> None:
        """Write what follows the last row."""


class HashedStream:
    """A stream that is written once, with the SHA-256 and the number of its bytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._hash = sha256()
        self.size = 0
        self.closed = False  # pyarrow asks for it

    def write(self, data: bytes) -> int:
        """Write all bytes."""
        self._hash.update(data)
        self.size += len(data)
        self._stream.write(data)
        return len(data)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def read_existing(self, size: int) -> None:
        """Add the bytes that the stream contains already."""
        self._stream.seek(0)
        while self.size < size:
            data = self._stream.read(min(_HASHED_BYTES, size - self.size))
            if not data:
                raise OSError("the file has become shorter")
            self._hash.update(data)
            self.size += len(data)

    @property
    def digest(self) -> str:
        """The SHA-256 of all bytes, in hex."""
        return self._hash.hexdigest()


class TextWriter:
    """Writes blocks as text, each at once, below an optional heading."""

    def __init__(
        self, stream: HashedStream, format_block: Callable[[list[ChunkItems]], str], heading: str
    ) -> None:
        self._stream = stream
        self._format = format_block
        if heading and not stream.size:
            stream.write(heading.encode())

    def write(self, block: list[ChunkItems]) -> None:
        """Write the rows of a block."""
        self._stream.write(self._format(block).encode())

    def finish(self) -> None:
        """Write nothing: a text ends with its last row."""


class ExportResult(NamedTuple):
    """The numbers of a finished export. rows_now were written by this run."""

    rows: int
    rows_now: int
    bytes: int
    seconds: float
    sha256: str
    bound: Bound


@dataclass(frozen=True, slots=True)
class Output:
    """An open output: where to write, from which journal on, and with which filter."""

    stream: HashedStream
    writer: RowWriter
    journal: ExportJournal
    grant_filter: GrantFilter
    save_journal: Callable[[ExportJournal], None]


def write_rows(
    connection: Connection, output: Output, on_rows: Callable[[int], None]
) -> ExportResult:
    """Write all rows after the journal's position, and save the journal now and then.

    on_rows is called with the number of rows, matching or not, that each block has gone through.
    """
    start = saved_at = monotonic()
    stream, journal = output.stream, output.journal
    with closing(_read_blocks(connection, output.grant_filter, journal)) as blocks:
        for block in blocks:
            output.writer.write(block)
            journal = replace(
                journal,
                position=block[-1].head.position,
                rows=journal.rows + sum(len(items) for _, items in block),
                bytes=stream.size,
            )
            on_rows(sum(head.issued + head.refused for head, _ in block))
            if monotonic() - saved_at > _SECONDS_PER_CHECKPOINT:
                stream.flush()
                output.save_journal(journal)
                saved_at = monotonic()
    output.writer.finish()
    rows_now = journal.rows - output.journal.rows
    seconds = monotonic() - start
    return ExportResult(journal.rows, rows_now, stream.size, seconds, stream.digest, journal.bound)


def _read_blocks(
    connection: Connection, grant_filter: GrantFilter, journal: ExportJournal
) -> Generator[list[ChunkItems], None, None]:
    """Yield blocks. A server reads the next one while the last one is written."""
    blocks = stream_blocks(connection, grant_filter, journal.bound, journal.position)
    if connection.dialect.name == "sqlite":  # a thread would only wait for this one
        yield from blocks
        return
    with ThreadPoolExecutor(1) as thread:  # its end waits for the server
        following = thread.submit(next, blocks, None)
        while (block := following.result()) is not None:
            following = thread.submit(next, blocks, None)
            yield block
