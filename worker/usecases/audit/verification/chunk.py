"""Verifies one chunk: its rows give the hash of its leaf."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from worker.core.quotas.cost import Cost
from worker.core.tree.merkle import RightEdge, hash_leaf, merkle_root
from worker.core.tree.records import entry_hash
from worker.db.tree.stored_rows import ITEM_EDGE, LEAF
from worker.db.tree.stored_values import WrongValue, instant, read_row
from worker.usecases.audit.verification.charges import batch_cost
from worker.usecases.audit.verification.items import Items, WrongItem
from worker.usecases.audit.verification.problems import Found, Problem
from worker.usecases.audit.verification.prunes import RemovedMonths
from worker.usecases.audit.verification.stored import (
    ChunkRows,
    Leaf,
    StoredBatch,
    StoredChunk,
    read_chunk,
)


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
        raise Found(batch.problem("chunks", text, chunk=rows.number), leaf.place)
    chunk = read_chunk(batch, rows.number, rows.row)
    if not rows.items and _is_removed(batch, rows, chunk, leaf, removed):
        return CheckedChunk(leaf, chunk.issued + chunk.refused, None, is_pruned=True)
    items = _read_items(batch, rows, chunk)
    if rows.item_edge is not None and rows.item_edge[-1] != RightEdge.of(items.hashes).to_bytes():
        raise Found(batch.problem("item_edges", "is not that of its items", chunk=rows.number))
    is_covered = leaf.reference is None and _covers(leaf, batch, chunk, items.hashes)
    _require_covered(batch, rows, leaf, is_covered=is_covered)
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
    if not removed:
        return False
    issued_at = instant("issued_at", chunk.issued_at)
    if not any(each.explains(issued_at, leaf.leaf_number) for each in removed):
        return False
    edge = _read_item_edge(batch, rows, chunk)
    if edge is None:
        problem = batch.problem("item_edges", "is missing", chunk=rows.number)
        raise Found(problem, leaf.place)
    is_covered = leaf.reference is None and _covers_edge(leaf, batch, chunk, edge)
    _require_covered(batch, rows, leaf, is_covered=is_covered)
    return True


def _read_item_edge(batch: StoredBatch, rows: ChunkRows, chunk: StoredChunk) -> RightEdge | None:
    if rows.item_edge is None:
        return None
    try:
        edge = read_row(ITEM_EDGE, rows.item_edge)["edge"]
        return RightEdge.from_bytes(chunk.issued + chunk.refused, edge)
    except ValueError:
        text = "is not that of as many items as the chunk counts"
        raise Found(batch.problem("item_edges", text, chunk=rows.number)) from None


def _leaf_of(batch: StoredBatch, rows: ChunkRows) -> Leaf:
    leaves = rows.chunk_leaves
    if not leaves:
        text = "has no row" if rows.row is None else "no leaf covers it"
        raise Found(batch.problem("chunks", text, chunk=rows.number))
    leaf = leaves[-1]
    if len(leaves) == 1 and leaf.tenant == batch.tenant and leaf.is_typed:
        return leaf
    place: dict[str, Any] = {
        "tenant": leaf.tenant,
        "chunk": rows.number,
        "number": leaf.leaf_number,
    }
    if len(leaves) > 1:
        text = f"covers a chunk that leaf {leaves[0].leaf_number} covers as well"
        raise Found(batch.problem("leaves", text, **place))
    if leaf.tenant != batch.tenant:
        text = f"is of this tenant, but leaf {leaf.leaf_number} of tenant {leaf.tenant} covers it"
        problem = batch.problem("batches", text, chunk=rows.number, column="tenant")
        raise Found(problem, leaf.place)
    try:
        read_row(LEAF, leaf)
    except WrongValue as error:
        raise Found(Problem.of_value("leaves", error, batch=batch.id, **place)) from None
    return leaf


def _read_items(batch: StoredBatch, rows: ChunkRows, chunk: StoredChunk) -> Items:
    expected, counted = batch.items_of(rows.number), chunk.issued + chunk.refused
    try:
        items = Items(rows.items, expected.start)
    except WrongItem as wrong:
        problem = Problem.of_value("grants", wrong.error, tenant=batch.tenant, batch=batch.id)
        raise Found(problem._replace(chunk=rows.number, item=wrong.item)) from None
    if len(rows.items) < len(expected) and counted == len(expected):
        first = expected.start + len(rows.items)
        place: dict[str, Any] = {
            "chunk": rows.number,
            "item": first,
            "last_item": expected.stop - 1,
        }
        raise Found(batch.problem("grants", "is missing", **place))
    if len(rows.items) != counted:
        text = f"counts {counted} items, and has {len(rows.items)}"
        raise Found(batch.problem("chunks", text, chunk=rows.number, column="issued"))
    if items.issued != chunk.issued:
        text = f"counts {chunk.issued} issued items, and has {items.issued}"
        raise Found(batch.problem("chunks", text, chunk=rows.number, column="issued"))
    return items


def _require_covered(batch: StoredBatch, rows: ChunkRows, leaf: Leaf, *, is_covered: bool) -> None:
    if is_covered:
        return
    numbers = batch.items_of(rows.number)
    what = "batch, chunk or items" if leaf.kind == "batch" else "chunk or items"
    text = f"its {what} differ from what leaf {leaf.leaf_number} covers"
    place: dict[str, Any] = {
        "chunk": rows.number,
        "item": numbers.start,
        "last_item": numbers.stop - 1,
    }
    problem = batch.problem("chunks", text, **place)
    raise Found(problem, leaf.place)


def _covers(leaf: Leaf, batch: StoredBatch, chunk: StoredChunk, items: list[bytes]) -> bool:
    """Return whether a leaf has the hash of the rows that it is about."""
    hashes = [*items, hash_leaf(chunk.record)]
    if leaf.kind == "batch":
        hashes.append(hash_leaf(batch.record))
    # Equal to records.entry_hash, which takes longer for a chunk of a few items.
    return hash_leaf(merkle_root(hashes)) == leaf.hash


def _covers_edge(leaf: Leaf, batch: StoredBatch, chunk: StoredChunk, items: RightEdge) -> bool:
    """Return whether a leaf has the hash of these rows and of a tree of items."""
    records = [chunk.record, batch.record] if leaf.kind == "batch" else [chunk.record]
    return entry_hash(records, items) == leaf.hash
