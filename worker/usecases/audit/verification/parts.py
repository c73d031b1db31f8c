"""The parts of a verification, which run one after the other or in several processes."""

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
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
    """A tree with its checkpoints, a range of batches, or else all rows that are of no batch.

    is_large is true for a range with many more rows than others.
    """

    head: StoredHead | None = None
    keys: Sequence[VerifierKey] = ()
    files: Sequence[KnownCheckpoint] = ()
    batches: BatchRange | None = None
    is_large: bool = False

    @classmethod
    def of_tree(
        cls, head: StoredHead, keys: Sequence[VerifierKey], files: Sequence[KnownCheckpoint]
    ) -> Self:
        """Return the part that verifies a tree."""
        return cls(head, keys, files)

    @classmethod
    def of_range(cls, batches: BatchRange, *, is_large: bool) -> Self:
        """Return the part that verifies the rows of a range of batches."""
        return cls(batches=batches, is_large=is_large)

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
        count - 1, get_context("spawn"), initializer=_open, initargs=(url, reader.snapshot, scope)
    )
    try:
        yield from _run_together(pool, reader, parts, scope)
    finally:
        pool.shutdown(cancel_futures=True)


def _run_together(
    pool: ProcessPoolExecutor, reader: LogReader, parts: Sequence[Part], scope: Scope
) -> Iterator[PartResult]:
    """Run parts in the pool, and from the last one on in this process.

    So it works while the others start. The largest parts come first, else one of them could be all
    that is left to do.
    """
    order = sorted(range(len(parts)), key=lambda index: not parts[index].is_large)
    futures = {index: pool.submit(_run, parts[index]) for index in order}
    results: dict[int, PartResult] = {}
    for index, future in sorted(futures.items()):
        while order and index not in results and not future.done():
            own = order.pop()
            if futures[own].cancel():
                results[own] = parts[own].run(reader, scope)
            else:
                order.clear()  # all parts have begun
        yield results.pop(index) if index in results else future.result()


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
