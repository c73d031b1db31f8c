"""Writes the rows of an export, and keeps its journal."""

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from hashlib import sha256
from time import monotonic
from typing import IO, NamedTuple, Protocol

from sqlalchemy import Connection

from worker.db.audit.filters import GrantFilter
from worker.db.audit.stream import Bound, ChunkItems, Position, stream_blocks
from worker.usecases.audit_export.partial_file import ExportJournal

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


class ExportRun:
    """One run of an export: reads blocks, writes them, and saves the journal now and then.

    on_rows is called with the number of rows, matching or not, that each block has gone through.
    """

    def __init__(
        self,
        connection: Connection,
        grant_filter: GrantFilter,
        journal: ExportJournal,
        on_rows: Callable[[int], None],
        save: Callable[[ExportJournal], None],
    ) -> None:
        self._connection = connection
        self._filter = grant_filter
        self.journal = journal
        self._on_rows = on_rows
        self._save = save

    def write(self, stream: HashedStream, writer: RowWriter) -> ExportResult:
        """Write all rows after the journal's position."""
        start = saved_at = monotonic()
        rows_before = self.journal.rows
        with closing(self._read_blocks()) as blocks:
            for block in blocks:
                writer.write(block)
                self._advance(block[-1].head.position, block, stream.size)
                if monotonic() - saved_at > _SECONDS_PER_CHECKPOINT:
                    stream.flush()
                    self._save(self.journal)
                    saved_at = monotonic()
        writer.finish()
        return ExportResult(
            self.journal.rows,
            self.journal.rows - rows_before,
            stream.size,
            monotonic() - start,
            stream.digest,
            self.journal.bound,
        )

    def _read_blocks(self) -> Generator[list[ChunkItems], None, None]:
        """Yield blocks. A server reads the next one while the last one is written."""
        journal = self.journal
        blocks = stream_blocks(self._connection, self._filter, journal.bound, journal.position)
        if self._connection.dialect.name == "sqlite":  # a thread would only wait for this one
            yield from blocks
            return
        with ThreadPoolExecutor(1) as thread:  # its end waits for the server
            following = thread.submit(next, blocks, None)
            while (block := following.result()) is not None:
                following = thread.submit(next, blocks, None)
                yield block

    def _advance(self, position: Position, block: list[ChunkItems], size: int) -> None:
        rows = sum(len(items) for _, items in block)
        self.journal = replace(
            self.journal, position=position, rows=self.journal.rows + rows, bytes=size
        )
        self._on_rows(sum(head.issued + head.refused for head, _ in block))
