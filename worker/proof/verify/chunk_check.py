"""Verifies ranges of batches: chunks, reissues and settlements against their leaves."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from worker.core.quota_rules import Cost
from worker.ledger.merkle import (
    RightEdge,
    entry_hash,
    hash_leaf,
    merkle_root,
    reissue_record,
    settlement_record,
)
from worker.proof.verify.charge_check import Charges, Windows, batch_cost
from worker.proof.verify.log_chunks import (
    ChunkRows,
    Items,
    Leaf,
    RemovedMonths,
    StoredBatch,
    StoredChunk,
    WrongItem,
    read_chunk,
)
from worker.proof.verify.log_reader import Found, LogReader, Problem, WrongValue, instant, read_row
from worker.proof.verify.log_rows import (
    ITEM_EDGE,
    LEAF,
    REISSUE,
    SETTLEMENT,
    BatchRange,
    GrantQueue,
    RangeRows,
    RowQueue,
    WrongKey,
    read_range,
)


def check_reissues(batch: StoredBatch, rows: ChunkRows) -> int:
    """Verify the reissues of a chunk; return their number. Raises Found."""
    leaves: dict[str | None, Leaf] = {}
    for leaf in rows.leaves:
        if leaf.kind == "reissue":
            _add_reissue_leaf(batch, leaves, leaf)
    for row in rows.reissues:
        values = _read_reissue(batch, rows.number, row)
        covering = leaves.pop(values["fingerprint"].hex(), None)
        if covering is None:
            raise batch.found("reissues", "no leaf covers it", chunk=rows.number)
        if entry_hash([reissue_record(batch.tenant, batch.id, values)]) != covering.hash:
            text = f"differs from what leaf {covering.leaf_number} covers"
            raise batch.found("reissues", text, covering, chunk=rows.number)
    for leaf in leaves.values():
        text = f"has no row for leaf {leaf.leaf_number}"
        raise batch.found("reissues", text, leaf, chunk=rows.number)
    return len(rows.reissues)


def _add_reissue_leaf(batch: StoredBatch, leaves: dict[str | None, Leaf], leaf: Leaf) -> None:
    place: dict[str, Any] = {"chunk": leaf.chunk_number, "number": leaf.leaf_number}
    if leaf.tenant != batch.tenant:
        text = f"covers a reissue of tenant {batch.tenant}"
        raise batch.found("leaves", text, tenant=leaf.tenant, **place)
    if leaf.reference in leaves:
        raise batch.found("leaves", "covers a reissue that another leaf covers", **place)
    leaves[leaf.reference] = leaf


def _read_reissue(batch: StoredBatch, chunk: int, row: Any) -> dict[str, Any]:
    # Few logs have reissues, and it imports all messages.
    from worker.core.fingerprints import fingerprint  # noqa: PLC0415

    try:
        values = read_row(REISSUE, row)
    except WrongValue as error:
        raise batch.wrong_value("reissues", error, chunk=chunk) from None
    if fingerprint(values["digests"].hex()) != values["fingerprint"]:
        text = "does not identify the digests"
        raise batch.found("reissues", text, chunk=chunk, column="fingerprint")
    return values


def check_settlement(batch: StoredBatch, rows: ChunkRows, *, is_pruned: bool) -> bool:
    """Verify a chunk's settlement; return true if there is one. Raises Found.

    That of a pruned chunk may have been removed.
    """
    leaves = [leaf for leaf in rows.leaves if leaf.kind == "settlement"]
    chunk = rows.number
    if len(leaves) > 1:
        text = f"covers a settlement that leaf {leaves[0].leaf_number} covers as well"
        raise batch.found("leaves", text, chunk=chunk, number=leaves[1].leaf_number)
    if not leaves:
        if rows.settlement is None:
            return False
        raise batch.found("settlements", "no leaf covers it", chunk=chunk)
    leaf = leaves[0]
    if leaf.tenant != batch.tenant:
        text = f"covers a settlement of tenant {batch.tenant}"
        place: dict[str, Any] = {"tenant": leaf.tenant, "number": leaf.leaf_number}
        raise batch.found("leaves", text, chunk=chunk, **place)
    if rows.settlement is None:
        if is_pruned:
            return False
        text = f"has no row, but leaf {leaf.leaf_number} covers it"
        raise batch.found("settlements", text, leaf, chunk=chunk)
    try:
        values = read_row(SETTLEMENT, rows.settlement)
    except WrongValue as error:
        raise batch.wrong_value("settlements", error, chunk=chunk) from None
    if entry_hash([settlement_record(batch.id, values)]) != leaf.hash:
        text = f"differs from what leaf {leaf.leaf_number} covers"
        raise batch.found("settlements", text, leaf, chunk=chunk)
    return True


class CheckedChunk(NamedTuple):
    """A chunk's leaf, and the number and cost of its items; cost is None if it is not known."""

    leaf: Leaf
    items: int
    cost: Cost | None
    is_pruned: bool = False


def check_chunk(
    batch: StoredBatch, rows: ChunkRows, removed: Sequence[RemovedMonths]
) -> CheckedChunk:
    """Verify a chunk. Raises Found.

    The items of older chunks may have been removed. Then it is verified with the stored edge of
    their tree.
    """
    leaf = _leaf_of(batch, rows)
    if rows.row is None:
        text = f"has no row, but leaf {leaf.leaf_number} covers it"
        raise batch.found("chunks", text, leaf, chunk=rows.number)
    chunk = read_chunk(batch, rows.number, rows.row)
    if not rows.items and _is_removed(batch, rows, chunk, leaf, removed):
        return CheckedChunk(leaf, chunk.issued + chunk.refused, None, is_pruned=True)
    items = _read_items(batch, rows, chunk)
    if rows.item_edge is not None and rows.item_edge[-1] != RightEdge.of(items.hashes).to_bytes():
        raise batch.found("item_edges", "is not that of its items", chunk=rows.number)
    # Equal to merkle.entry_hash, which takes longer for a chunk of a few items.
    hashes = [*items.hashes, *map(hash_leaf, _own_records(leaf, batch, chunk))]
    _require_hash(batch, rows, leaf, hash_leaf(merkle_root(hashes)))
    cost = batch_cost(batch.kind, batch.terms, items.issued, items.sizes)
    return CheckedChunk(leaf, len(rows.items), cost)


def _is_removed(
    batch: StoredBatch,
    rows: ChunkRows,
    chunk: StoredChunk,
    leaf: Leaf,
    removed: Sequence[RemovedMonths],
) -> bool:
    """Return whether the items were removed because of their age. Raises Found.

    Compares what was kept with the leaf.
    """
    issued_at = instant("issued_at", chunk.issued_at)
    if not any(each.explains(issued_at, leaf.leaf_number) for each in removed):
        return False
    if rows.item_edge is None:
        raise batch.found("item_edges", "is missing", leaf, chunk=rows.number)
    try:
        data = read_row(ITEM_EDGE, rows.item_edge)["edge"]
        edge = RightEdge.from_bytes(chunk.issued + chunk.refused, data)
    except ValueError:
        text = "is not that of as many items as the chunk counts"
        raise batch.found("item_edges", text, chunk=rows.number) from None
    _require_hash(batch, rows, leaf, entry_hash(_own_records(leaf, batch, chunk), edge))
    return True


def _leaf_of(batch: StoredBatch, rows: ChunkRows) -> Leaf:
    leaves = rows.chunk_leaves
    if not leaves:
        text = "has no row" if rows.row is None else "no leaf covers it"
        raise batch.found("chunks", text, chunk=rows.number)
    leaf = leaves[-1]
    place: dict[str, Any] = {"tenant": leaf.tenant, "number": leaf.leaf_number}
    if len(leaves) > 1:
        text = f"covers a chunk that leaf {leaves[0].leaf_number} covers as well"
        raise batch.found("leaves", text, chunk=rows.number, **place)
    if leaf.tenant != batch.tenant:
        text = f"is of this tenant, but leaf {leaf.leaf_number} of tenant {leaf.tenant} covers it"
        raise batch.found("batches", text, leaf, chunk=rows.number, column="tenant")
    try:
        if not leaf.is_typed:
            read_row(LEAF, leaf)
    except WrongValue as error:
        raise batch.wrong_value("leaves", error, chunk=rows.number, **place) from None
    return leaf


def _read_items(batch: StoredBatch, rows: ChunkRows, chunk: StoredChunk) -> Items:
    expected, counted = batch.items_of(rows.number), chunk.issued + chunk.refused
    try:
        items = Items(rows.items, expected.start)
    except WrongItem as wrong:
        place: dict[str, Any] = {"chunk": rows.number, "item": wrong.item}
        raise batch.wrong_value("grants", wrong.error, **place) from None
    if len(rows.items) < len(expected) and counted == len(expected):
        place = {"item": expected.start + len(rows.items), "last_item": expected.stop - 1}
        raise batch.found("grants", "is missing", chunk=rows.number, **place)
    if len(rows.items) != counted:
        text = f"counts {counted} items, and has {len(rows.items)}"
        raise batch.found("chunks", text, chunk=rows.number, column="issued")
    if items.issued != chunk.issued:
        text = f"counts {chunk.issued} issued items, and has {items.issued}"
        raise batch.found("chunks", text, chunk=rows.number, column="issued")
    return items


def _own_records(leaf: Leaf, batch: StoredBatch, chunk: StoredChunk) -> list[bytes]:
    """Return the records that a leaf covers after those of the items."""
    return [chunk.record, batch.record] if leaf.kind == "batch" else [chunk.record]


def _require_hash(batch: StoredBatch, rows: ChunkRows, leaf: Leaf, expected: bytes) -> None:
    """Raise Found unless the leaf of a chunk has the hash of the rows that it covers."""
    if leaf.reference is None and leaf.hash == expected:
        return
    numbers = batch.items_of(rows.number)
    what = "batch, chunk or items" if leaf.kind == "batch" else "chunk or items"
    text = f"its {what} differ from what leaf {leaf.leaf_number} covers"
    place: dict[str, Any] = {"item": numbers.start, "last_item": numbers.stop - 1}
    raise batch.found("chunks", text, leaf, chunk=rows.number, **place)


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
            raise batch.found("grants", "has rows that belong to none of its chunks")
        if not chunks:
            raise batch.found("batches", "has no chunk, and no leaf covers it")
        if batch_leaves > 1:
            raise batch.found("leaves", "two leaves cover the batch as its first one")
        if covered and not batch_leaves:
            raise batch.found("batches", "no leaf covers it")

    def _read_batch(self, number: int) -> StoredBatch:
        rows = self._rows
        if rows.batches.next is None or rows.batches.next[0] != number:
            raise self._without_batch(number)
        row = rows.batches.pop()
        try:
            return StoredBatch(row)
        except WrongValue as error:
            names = [value if isinstance(value, str) else None for value in row[1:3]]
            place: dict[str, Any] = {"batch": names[0], "tenant": names[1], "number": number}
            raise Found(Problem.of_value("batches", error, **place)) from None

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
            text = "belongs to none of the batch's chunks"
            raise batch.found("grants", text, item=stray[0][1])
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
