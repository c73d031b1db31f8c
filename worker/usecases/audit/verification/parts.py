"""The parts of a verification, which run one after the other or in several processes."""

from collections.abc import Generator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from typing import NamedTuple, Self

from worker.core.tree.signed_note import VerifierKey
from worker.db.tree.log_readers import LogReader, open_reader
from worker.db.tree.stored_rows import BatchRange
from worker.usecases.audit.verification.checkpoints import KnownCheckpoint
from worker.usecases.audit.verification.others import OthersResult, check_others
from worker.usecases.audit.verification.prunes import read_prunes
from worker.usecases.audit.verification.rows import RangeResult, Scope, check_range
from worker.usecases.audit.verification.tree import StoredHead, TreeResult, check_tree

PartResult = TreeResult | OthersResult | RangeResult


class Part(NamedTuple):
    """A tree with its checkpoints, a range of batches, or else all rows that are of no batch."""

    head: StoredHead | None = None
    keys: Sequence[VerifierKey] = ()
    files: Sequence[KnownCheckpoint] = ()
    batches: BatchRange | None = None

    @classmethod
    def of_tree(
        cls, head: StoredHead, keys: Sequence[VerifierKey], files: Sequence[KnownCheckpoint]
    ) -> Self:
        """Return the part that verifies a tree."""
        return cls(head, keys, files)

    @classmethod
    def of_range(cls, batches: BatchRange) -> Self:
        """Return the part that verifies the rows of a range of batches."""
        return cls(batches=batches)

    @classmethod
    def of_others(cls) -> Self:
        """Return the part that verifies cancellations, uses, and changes of the config."""
        return cls()

    def run(self, reader: LogReader, scope: Scope) -> PartResult:
        """Verify this part."""
        if self.head is not None:
            return check_tree(reader, self.head, self.keys, self.files)
        if self.batches is not None:
            return check_range(reader, self.batches, scope)
        return check_others(reader, scope)


def run_parts(
    url: str, reader: LogReader, parts: Sequence[Part], scope: Scope, processes: int
) -> Generator[PartResult, None, None]:
    """Run parts, and yield their results in order.

    Each process reads with a connection of its own: on PostgreSQL all read the same state, and on
    SQLite perhaps later ones, in which rows were only added.
    """
    count = min(processes, len(parts), sum(part.batches is not None for part in parts))
    if count <= 1:
        for part in parts:
            yield part.run(reader, scope)
        return
    pool = ProcessPoolExecutor(
        count, get_context("spawn"), initializer=_open, initargs=(url, reader.snapshot, scope)
    )
    try:
        futures: list[Future[PartResult]] = [pool.submit(_run, part) for part in parts]
        for future in futures:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Process:
    """The connection and the scope of one of the processes."""

    reader: LogReader
    scope: Scope


def _open(url: str, snapshot: str | None, scope: Scope) -> None:
    _Process.reader = open_reader(url, snapshot)
    # On SQLite, items may have been removed since the first reader began.
    _Process.scope = replace(
        scope, removed=dict(read_prunes(_Process.reader, scope.tenants).removed)
    )


def _run(part: Part) -> PartResult:
    return part.run(_Process.reader, _Process.scope)
