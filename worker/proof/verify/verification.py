"""Verifies the whole audit log, in parts that run one after the other or in several processes."""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import NamedTuple

from worker.proof.checkpoint_format import VerifierKey
from worker.proof.verify.charge_check import Charges, compare_usage, read_usage
from worker.proof.verify.chunk_check import RangeResult, Scope, check_range
from worker.proof.verify.log_chunks import compare_removed, compare_removed_uses, read_prunes
from worker.proof.verify.log_reader import Found, LogReader, Problem, open_reader
from worker.proof.verify.log_rows import BatchRange, read_ranges
from worker.proof.verify.row_check import OthersResult, check_others, check_refused_chunks
from worker.proof.verify.tree_check import (
    KnownCheckpoint,
    StoredHead,
    TreeResult,
    check_tree,
    read_heads,
)

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
        count - 1,
        get_context("spawn"),
        initializer=_open_in_process,
        initargs=(url, reader.snapshot, scope),
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
    futures = {index: pool.submit(_run_in_process, parts[index]) for index in order}
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


def _open_in_process(url: str, snapshot: str | None, scope: Scope) -> None:
    _Process.reader = open_reader(url, snapshot)
    # On SQLite, items may have been removed since the first reader began.
    _Process.scope = replace(
        scope, removed=dict(read_prunes(_Process.reader, scope.tenants).removed)
    )


def _run_in_process(part: Part) -> PartResult:
    return part.run(_Process.reader, _Process.scope)


OnProgress = Callable[[int, int], None]
"""Called with the number of items that were verified, and with the number of all."""


@dataclass(frozen=True, slots=True)
class VerifyOptions:
    """The part of the log to verify, and what to trust.

    tenants are ids, none for all. keys are those whose checkpoints are trusted; without them no
    signature is verified. files are checkpoints from outside of the database. After max_problems
    problems, the verification stops.
    """

    tenants: tuple[str, ...] = ()
    keys: tuple[VerifierKey, ...] = ()
    files: tuple[KnownCheckpoint, ...] = ()
    processes: int = 1
    max_problems: int = 1


COUNTS = (
    *("items", "chunks", "pruned", "reissues", "cancellations", "revocations", "uses"),
    *("settlements", "changes", "leaves", "trees", "checkpoints", "charges"),
)
"""The names of what is verified, in the order of the output."""


@dataclass(slots=True)
class Verification:
    """The numbers of rows that were verified, by their name, and the problems."""

    counts: Counter[str] = field(default_factory=Counter)
    problems: list[Problem] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems


def verify_log(
    url: str, options: VerifyOptions, on_progress: OnProgress = lambda _done, _total: None
) -> Verification:
    """Verify the audit log in the database at a URL. Writes nothing.

    Raises the driver's errors.
    """
    with closing(open_reader(url, is_shared=options.processes > 1)) as reader:
        try:
            return _Run(url, reader, options).run(on_progress)
        except Found as found:
            return Verification(problems=[found.problem])


class _Run:
    """One verification, which puts together what its parts give."""

    def __init__(self, url: str, reader: LogReader, options: VerifyOptions) -> None:
        self._url = url
        self._reader = reader
        self._options = options
        self._total = Verification()
        self._found: list[Found] = []
        self._trees: dict[str, TreeResult] = {}
        self._removed_chunks = Counter[str]()
        self._removed_items = Counter[str]()
        self._removed_uses = Counter[str]()

    def run(self, on_progress: OnProgress) -> Verification:
        """Verify. Raises Found."""
        reader, options = self._reader, self._options
        heads = read_heads(reader, options.tenants, options.files)
        usage = read_usage(reader, options.tenants)
        prunes = read_prunes(reader, options.tenants)
        self._found += prunes.found
        ranges = read_ranges(reader)
        scope = Scope(
            {head.tenant: head.size for head in heads if isinstance(head.size, int)},
            frozenset(usage.usage),
            options.tenants,
            dict(prunes.removed),
            max_problems=options.max_problems,
        )
        parts = [
            *(Part(head, options.keys, self._files(head.tenant)) for head in heads),
            Part(),
            *(Part(batches=each.batches, is_large=each.is_large) for each in ranges),
        ]
        charges = Charges(scope.windows)
        items = sum(each.items for each in ranges)
        results = run_parts(self._url, reader, parts, scope, options.processes)
        for result in results:
            self._add(result, charges)
            on_progress(self._total.counts["items"], items)
            if self._is_enough():
                results.close()
                break
        if not self._is_enough():
            self._found += map(Found, self._compare_removed())
        self._put_together()
        if not self._found and not self._is_enough():
            self._total.problems += compare_usage(usage, charges)
            self._total.problems += check_refused_chunks(reader, options.tenants)
            self._total.counts["charges"] = len(usage.usage)
        del self._total.problems[options.max_problems :]
        return self._total

    def _compare_removed(self) -> list[Problem]:
        # On SQLite, items may have been removed since the first reader began.
        with closing(open_reader(self._url)) as reader:
            prunes = read_prunes(reader, self._options.tenants)
        return [
            *compare_removed(prunes, self._removed_chunks, self._removed_items),
            *compare_removed_uses(prunes, self._removed_uses),
        ]

    def _files(self, tenant: str) -> Sequence[KnownCheckpoint]:
        return [file for file in self._options.files if file.tenant == tenant]

    def _is_enough(self) -> bool:
        found = len(self._found) + sum(len(tree.problems) for tree in self._trees.values())
        return found >= self._options.max_problems

    def _add(self, result: PartResult, charges: Charges) -> None:
        self._total.counts.update(result.counts)
        match result:
            case TreeResult():
                self._trees[result.tenant] = result
            case OthersResult():
                self._removed_uses.update(result.removed)
                self._found += result.found
            case RangeResult():
                charges.merge(result.charges)
                self._removed_chunks.update(result.removed_chunks)
                self._removed_items.update(result.removed_items)
                self._found += result.found

    def _put_together(self) -> None:
        """Order the problems: single rows first, then what only a range of leaves is known of."""
        problems = self._total.problems
        for tree in self._trees.values():
            problems += tree.problems
        explained = set()
        for found in self._found:
            problem, leaf = found.problem, found.leaf
            broken = None if leaf is None else self._broken_range(leaf)
            if leaf is None or broken is None:
                problems.append(problem)
                continue
            explained.add(broken)
            text = "its hash is neither that of its rows, nor fits its tree"
            place = problem._replace(table="leaves", text=text, item=None, last_item=None)
            problems.append(place._replace(tenant=leaf[0], number=leaf[1], last_number=None))
        for tree in self._trees.values():
            problems += (problem for problem in tree.broken if problem not in explained)

    def _broken_range(self, leaf: tuple[str, int]) -> Problem | None:
        tree = self._trees.get(leaf[0])
        for problem in () if tree is None else tree.broken:
            first, last = problem.number or 0, problem.last_number or 0
            if first <= leaf[1] <= last:
                return problem
        return None
