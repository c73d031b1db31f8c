"""Verifies the rows of a range of batches: each chunk and what belongs to it against its leaf."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from worker.db.tree.log_readers import LogReader
from worker.db.tree.row_queues import GrantQueue, RowQueue, WrongKey
from worker.db.tree.stored_rows import BatchRange, RangeRows, read_range
from worker.db.tree.stored_values import WrongValue
from worker.usecases.audit.verification.charges import Charges, Windows
from worker.usecases.audit.verification.chunk import CheckedChunk, check_chunk
from worker.usecases.audit.verification.problems import Found, Problem
from worker.usecases.audit.verification.prunes import RemovedMonths
from worker.usecases.audit.verification.reissues import check_reissues, check_settlement
from worker.usecases.audit.verification.stored import ChunkRows, Leaf, StoredBatch

_LOWEST = -(2**63)


@dataclass(frozen=True, slots=True)
class Scope:
    """The part of the log that a verification covers: trees by tenant, with their sizes.

    windows are those whose usage is stored. tenants are the ids of the selected tenants, none for
    all. removed has, by tenant, what was removed because of its age.
    """

    sizes: Mapping[str, int]
    windows: Windows
    tenants: tuple[str, ...] = ()
    removed: Mapping[str, Sequence[RemovedMonths]] = field(default_factory=dict)
    max_problems: int = 1


@dataclass(slots=True)
class RangeResult:
    """The numbers of rows that were verified in a range, and the problems in it.

    wrong_leaves has the problems of rows that differ from their leaf, by tenant and leaf number.
    removed counts, by tenant, the chunks without their items, and these items.
    """

    charges: Charges
    items: int = 0
    chunks: int = 0
    removed: dict[str, tuple[int, int]] = field(default_factory=dict)
    reissues: int = 0
    settlements: int = 0
    problems: list[Problem] = field(default_factory=list)
    wrong_leaves: dict[Problem, tuple[str, int]] = field(default_factory=dict)


class _TooMany(Exception):
    """As many problems as were asked for."""


def check_range(reader: LogReader, batches: BatchRange, scope: Scope) -> RangeResult:
    """Verify the rows of a range of batches."""
    result = RangeResult(Charges(scope.windows))
    try:
        check = _RangeCheck(read_range(reader, batches, scope.tenants), scope, result)
        with suppress(_TooMany):
            check.run()
    except WrongKey as error:
        result.problems.append(Problem.of_value(error.table, error.error))
    return result


class _RangeCheck:
    """Merges the tables of a range by batch and chunk number."""

    def __init__(self, rows: RangeRows, scope: Scope, result: RangeResult) -> None:
        self._rows = rows
        self._scope = scope
        self._result = result

    def run(self) -> None:
        """Verify one batch after the other. Raises _TooMany and WrongKey."""
        while (number := self._next_batch_number()) is not None:
            try:
                self._check_batch(number)
            except Found as found:
                self._report(found)
                self._skip(number)

    def _next_batch_number(self) -> int | None:
        rows = self._rows
        heads = [queue.next for queue in rows]
        return min([row[0] for row in heads if row is not None], default=None)

    def _check_batch(self, number: int) -> None:
        batch = self._read_batch(number)
        batch_leaves = covered = chunks = 0
        while (chunk := self._next_chunk_number(number)) is not None:
            rows = self._chunk_rows(batch, number, chunk)
            chunks += 1
            try:
                batch_leaves += self._check_chunk(batch, rows) == "batch"
                covered += 1
            except Found as found:
                self._report(found)
                batch_leaves += any(leaf.kind == "batch" for leaf in rows.leaves)
        if self._rows.grants.take_before(number + 1, _LOWEST):
            raise Found(batch.problem("grants", "has rows that belong to none of its chunks"))
        if not chunks:
            raise Found(batch.problem("batches", "has no chunk, and no leaf covers it"))
        if batch_leaves > 1:
            raise Found(batch.problem("leaves", "two leaves cover the batch as its first one"))
        if covered and not batch_leaves:
            raise Found(batch.problem("batches", "no leaf covers it"))

    def _read_batch(self, number: int) -> StoredBatch:
        rows = self._rows
        if rows.batches.next is None or rows.batches.next[0] != number:
            raise self._without_batch(number)
        row = rows.batches.pop()
        try:
            return StoredBatch(row)
        except WrongValue as error:
            names = [value if isinstance(value, str) else None for value in row[1:3]]
            raise Found(
                Problem.of_value("batches", error, tenant=names[1], batch=names[0], number=number)
            ) from None

    def _without_batch(self, number: int) -> Found:
        rows = self._rows
        if rows.leaves.next is not None and rows.leaves.next[0] == number:
            leaf = Leaf(*rows.leaves.next)
            text = f"has no batch with the number {number}, which leaf {leaf.leaf_number} covers"
            return Found(Problem("batches", text, tenant=leaf.tenant), leaf.place)
        if rows.chunks.next is not None and rows.chunks.next[0] == number:
            text = f"belongs to batch number {number}, which has no row"
            return Found(Problem("chunks", text, chunk=rows.chunks.next[1]))
        named: tuple[tuple[str, GrantQueue | RowQueue], ...] = (
            *(("grants", rows.grants), ("reissues", rows.reissues)),
            ("settlements", rows.settlements),
        )
        is_first = (name for name, queue in named if queue.next and queue.next[0] == number)
        table = next(is_first, "item_edges")
        return Found(Problem(table, f"has rows of batch number {number}, which has no row"))

    def _skip(self, number: int) -> None:
        rows = self._rows
        for queue in (rows.batches, *rows.of_chunks):
            while queue.next is not None and queue.next[0] == number:
                queue.pop()
        rows.grants.take_before(number + 1, _LOWEST)

    def _next_chunk_number(self, number: int) -> int | None:
        rows = self._rows
        heads = [queue.next for queue in rows.of_chunks]
        return min([row[1] for row in heads if row is not None and row[0] == number], default=None)

    def _chunk_rows(self, batch: StoredBatch, number: int, chunk: int) -> ChunkRows:
        rows, key, items = self._rows, (number, chunk), batch.items_of(chunk)
        stray = rows.grants.take_before(number, items.start)
        if stray:
            raise Found(
                batch.problem("grants", "belongs to none of the batch's chunks", item=stray[0][1])
            )
        is_stored = rows.chunks.next is not None and rows.chunks.next[:2] == key
        return ChunkRows(
            chunk,
            rows.chunks.pop() if is_stored else None,
            rows.grants.take_before(number, items.stop),
            list(map(Leaf._make, rows.leaves.take(key))),
            rows.reissues.take(key),
            next(iter(rows.item_edges.take(key)), None),
            next(iter(rows.settlements.take(key)), None),
        )

    def _check_chunk(self, batch: StoredBatch, rows: ChunkRows) -> str:
        """Verify all of a chunk; return the kind of the leaf that covers it. Raises Found."""
        checked = check_chunk(batch, rows, self._scope.removed.get(batch.tenant, ()))
        if rows.reissues or len(rows.leaves) != len(rows.chunk_leaves):
            self._result.reissues += check_reissues(batch, rows)
        self._result.settlements += check_settlement(batch, rows, is_pruned=checked.is_pruned)
        if self._is_within(checked.leaf):
            self._count(batch, checked)
        return checked.leaf.kind

    def _count(self, batch: StoredBatch, checked: CheckedChunk) -> None:
        result = self._result
        result.charges.add(batch.tenant, batch.charged_at, checked.cost)
        result.chunks += 1
        if checked.is_pruned:
            chunks, items = result.removed.get(batch.tenant, (0, 0))
            result.removed[batch.tenant] = (chunks + 1, items + checked.items)
        else:
            result.items += checked.items

    def _is_within(self, leaf: Leaf) -> bool:
        """Return false for what was committed after the sizes of the trees were read."""
        return leaf.leaf_number < self._scope.sizes.get(leaf.tenant, 0)

    def _report(self, found: Found) -> None:
        self._result.problems.append(found.problem)
        if found.leaf is not None:
            self._result.wrong_leaves[found.problem] = found.leaf
        if len(self._result.problems) >= self._scope.max_problems:
            raise _TooMany
