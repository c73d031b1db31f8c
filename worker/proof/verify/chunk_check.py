"""Verifies ranges of batches: chunks, reissues and settlements against their leaves."""

from collections import Counter
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
)
from worker.proof.verify.log_reader import Found, LogReader, Problem, WrongValue, instant, read_row
from worker.proof.verify.log_rows import (
    ITEM_EDGE,
    LEAF,
    REISSUE,
    SETTLEMENT,
    BatchRange,
    RangeRows,
    WrongKey,
    read_range,
)


def check_reissues(rows: ChunkRows) -> int:
    """Verify the reissues of a chunk; return their number. Raises Found."""
    leaves: dict[str | None, Leaf] = {}
    for leaf in rows.leaves:
        if leaf.kind == "reissue":
            _add_reissue_leaf(rows, leaves, leaf)
    for row in rows.reissues:
        values = _read_reissue(rows, row)
        covering = leaves.pop(values["fingerprint"].hex(), None)
        if covering is None:
            raise rows.found("reissues", "no leaf covers it")
        if entry_hash([reissue_record(rows.batch.tenant, rows.batch.id, values)]) != covering.hash:
            text = f"differs from what leaf {covering.leaf_number} covers"
            raise rows.found("reissues", text, covering)
    for leaf in leaves.values():
        raise rows.found("reissues", f"has no row for leaf {leaf.leaf_number}", leaf)
    return len(rows.reissues)


def _add_reissue_leaf(rows: ChunkRows, leaves: dict[str | None, Leaf], leaf: Leaf) -> None:
    number = leaf.leaf_number
    if leaf.tenant != rows.batch.tenant:
        text = f"covers a reissue of tenant {rows.batch.tenant}"
        raise rows.found("leaves", text, tenant=leaf.tenant, number=number)
    if leaf.reference in leaves:
        raise rows.found("leaves", "covers a reissue that another leaf covers", number=number)
    leaves[leaf.reference] = leaf


def _read_reissue(rows: ChunkRows, row: Any) -> dict[str, Any]:
    # Few logs have reissues, and it imports all messages.
    from worker.core.fingerprints import fingerprint  # noqa: PLC0415

    try:
        values = read_row(REISSUE, row)
    except WrongValue as error:
        raise rows.wrong_value("reissues", error) from None
    if fingerprint(values["digests"].hex()) != values["fingerprint"]:
        raise rows.found("reissues", "does not identify the digests", column="fingerprint")
    return values


def check_settlement(rows: ChunkRows, *, is_pruned: bool) -> bool:
    """Verify a chunk's settlement; return true if there is one. Raises Found.

    That of a pruned chunk may have been removed.
    """
    leaves = [leaf for leaf in rows.leaves if leaf.kind == "settlement"]
    if len(leaves) > 1:
        text = f"covers a settlement that leaf {leaves[0].leaf_number} covers as well"
        raise rows.found("leaves", text, number=leaves[1].leaf_number)
    if not leaves:
        if rows.settlement is None:
            return False
        raise rows.found("settlements", "no leaf covers it")
    leaf = leaves[0]
    if leaf.tenant != rows.batch.tenant:
        text = f"covers a settlement of tenant {rows.batch.tenant}"
        raise rows.found("leaves", text, tenant=leaf.tenant, number=leaf.leaf_number)
    if rows.settlement is None:
        if is_pruned:
            return False
        raise rows.found("settlements", f"has no row, but leaf {leaf.leaf_number} covers it", leaf)
    try:
        values = read_row(SETTLEMENT, rows.settlement)
    except WrongValue as error:
        raise rows.wrong_value("settlements", error) from None
    if entry_hash([settlement_record(rows.batch.id, values)]) != leaf.hash:
        raise rows.found("settlements", f"differs from what leaf {leaf.leaf_number} covers", leaf)
    return True


class CheckedChunk(NamedTuple):
    """A chunk's leaf, and the number and cost of its items; cost is None if it is not known."""

    leaf: Leaf
    items: int
    cost: Cost | None
    is_pruned: bool = False


def check_chunk(rows: ChunkRows, removed: Sequence[RemovedMonths]) -> CheckedChunk:
    """Verify a chunk. Raises Found.

    The items of older chunks may have been removed. Then it is verified with the stored edge of
    their tree.
    """
    leaf = _leaf_of(rows)
    if rows.row is None:
        raise rows.found("chunks", f"has no row, but leaf {leaf.leaf_number} covers it", leaf)
    try:
        chunk = StoredChunk(rows.batch, rows.row)
    except WrongValue as error:
        raise rows.wrong_value("chunks", error) from None
    if not rows.items and _is_removed(rows, chunk, leaf, removed):
        return CheckedChunk(leaf, chunk.issued + chunk.refused, None, is_pruned=True)
    items = _read_items(rows, chunk)
    if rows.item_edge is not None and rows.item_edge[-1] != RightEdge.of(items.hashes).to_bytes():
        raise rows.found("item_edges", "is not that of its items")
    # Equal to merkle.entry_hash, which takes longer for a chunk of a few items.
    hashes = [*items.hashes, *map(hash_leaf, _own_records(rows.batch, chunk, leaf))]
    _require_hash(rows, leaf, hash_leaf(merkle_root(hashes)))
    cost = batch_cost(rows.batch.kind, rows.batch.terms, items.issued, items.sizes)
    return CheckedChunk(leaf, len(rows.items), cost)


def _is_removed(
    rows: ChunkRows, chunk: StoredChunk, leaf: Leaf, removed: Sequence[RemovedMonths]
) -> bool:
    """Return whether the items were removed because of their age. Raises Found.

    Compares what was kept with the leaf.
    """
    issued_at = instant("issued_at", chunk.issued_at)
    if not any(each.explains(issued_at, leaf.leaf_number) for each in removed):
        return False
    if rows.item_edge is None:
        raise rows.found("item_edges", "is missing", leaf)
    try:
        data = read_row(ITEM_EDGE, rows.item_edge)["edge"]
        edge = RightEdge.from_bytes(chunk.issued + chunk.refused, data)
    except ValueError:
        raise rows.found("item_edges", "is not that of as many items as the chunk counts") from None
    _require_hash(rows, leaf, entry_hash(_own_records(rows.batch, chunk, leaf), edge))
    return True


def _leaf_of(rows: ChunkRows) -> Leaf:
    leaves = rows.chunk_leaves
    if not leaves:
        raise rows.found("chunks", "has no row" if rows.row is None else "no leaf covers it")
    leaf = leaves[-1]
    place: dict[str, Any] = {"tenant": leaf.tenant, "number": leaf.leaf_number}
    if len(leaves) > 1:
        text = f"covers a chunk that leaf {leaves[0].leaf_number} covers as well"
        raise rows.found("leaves", text, **place)
    if leaf.tenant != rows.batch.tenant:
        text = f"is of this tenant, but leaf {leaf.leaf_number} of tenant {leaf.tenant} covers it"
        raise rows.found("batches", text, leaf, column="tenant")
    try:
        if not leaf.is_typed:
            read_row(LEAF, leaf)
    except WrongValue as error:
        raise rows.wrong_value("leaves", error, **place) from None
    return leaf


def _read_items(rows: ChunkRows, chunk: StoredChunk) -> Items:
    expected, counted = rows.batch.items_of(rows.number), chunk.issued + chunk.refused
    try:
        items = Items(rows.items, expected.start)
    except WrongItem as wrong:
        raise rows.wrong_value("grants", wrong.error, item=wrong.item) from None
    if len(rows.items) < len(expected) and counted == len(expected):
        first, last = expected.start + len(rows.items), expected.stop - 1
        raise rows.found("grants", "is missing", item=first, last_item=last)
    if len(rows.items) != counted:
        text = f"counts {counted} items, and has {len(rows.items)}"
        raise rows.found("chunks", text, column="issued")
    if items.issued != chunk.issued:
        text = f"counts {chunk.issued} issued items, and has {items.issued}"
        raise rows.found("chunks", text, column="issued")
    return items


def _own_records(batch: StoredBatch, chunk: StoredChunk, leaf: Leaf) -> list[bytes]:
    """Return the records that a leaf covers after those of the items."""
    return [chunk.record, batch.record] if leaf.kind == "batch" else [chunk.record]


def _require_hash(rows: ChunkRows, leaf: Leaf, expected: bytes) -> None:
    """Raise Found unless the leaf of a chunk has the hash of the rows that it covers."""
    if leaf.reference is None and leaf.hash == expected:
        return
    numbers = rows.batch.items_of(rows.number)
    what = "batch, chunk or items" if leaf.kind == "batch" else "chunk or items"
    text = f"its {what} differ from what leaf {leaf.leaf_number} covers"
    raise rows.found("chunks", text, leaf, item=numbers.start, last_item=numbers.stop - 1)


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

    removed_chunks counts, by tenant, the chunks without their items, and removed_items these items.
    """

    charges: Charges
    counts: Counter[str] = field(default_factory=Counter)
    removed_chunks: Counter[str] = field(default_factory=Counter)
    removed_items: Counter[str] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)


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
        result.found.append(Found(error.problem))
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
                batch_leaves += self._check_chunk(rows) == "batch"
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
        queues = rows._asdict().items()
        table = next(name for name, queue in queues if queue.next and queue.next[0] == number)
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
            batch,
            chunk,
            rows.chunks.pop() if is_stored else None,
            rows.grants.take_before(number, items.stop),
            list(map(Leaf._make, rows.leaves.take(key))),
            rows.reissues.take(key),
            next(iter(rows.item_edges.take(key)), None),
            next(iter(rows.settlements.take(key)), None),
        )

    def _check_chunk(self, rows: ChunkRows) -> str:
        """Verify all of a chunk; return the kind of the leaf that covers it. Raises Found."""
        checked = check_chunk(rows, self._scope.removed.get(rows.batch.tenant, ()))
        if rows.reissues or len(rows.leaves) != len(rows.chunk_leaves):
            self._result.counts["reissues"] += check_reissues(rows)
        is_settled = check_settlement(rows, is_pruned=checked.is_pruned)
        self._result.counts["settlements"] += is_settled
        if self._is_within(checked.leaf):
            self._count(rows.batch, checked)
        return checked.leaf.kind

    def _count(self, batch: StoredBatch, checked: CheckedChunk) -> None:
        result = self._result
        result.charges.add(batch.tenant, batch.charged_at, checked.cost)
        result.counts["chunks"] += 1
        result.counts["pruned" if checked.is_pruned else "items"] += checked.items
        if checked.is_pruned:
            result.removed_chunks[batch.tenant] += 1
            result.removed_items[batch.tenant] += checked.items

    def _is_within(self, leaf: Leaf) -> bool:
        """Return false for what was committed after the sizes of the trees were read."""
        return leaf.leaf_number < self._scope.sizes.get(leaf.tenant, 0)

    def _report(self, found: Found) -> None:
        self._result.found.append(found)
        if len(self._result.found) >= self._scope.max_problems:
            raise _TooMany
