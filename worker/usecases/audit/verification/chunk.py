"""Verifies one chunk: its rows give the hash of its leaf."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from worker.core.quotas.cost import Cost
from worker.core.tree.merkle import RightEdge
from worker.core.tree.records import (
    CHUNK_KINDS,
    NO_LEAVES,
    chunk_record,
    encode_record,
    entry_hash,
)
from worker.db.tree.log_readers import Row
from worker.db.tree.stored_rows import CHUNK, ITEM_EDGE, LEAF
from worker.db.tree.stored_values import WrongValue, read_row
from worker.usecases.audit.verification.charges import batch_cost
from worker.usecases.audit.verification.items import Items, WrongItem
from worker.usecases.audit.verification.problems import Found, Problem
from worker.usecases.audit.verification.prunes import RemovedMonths


class Leaf(NamedTuple):
    """A stored leaf of a chunk or a reissue, unchecked."""

    batch_number: int
    chunk_number: int
    tenant: str
    leaf_number: int
    kind: str
    reference: str | None
    hash: bytes

    @property
    def place(self) -> tuple[str, int]:
        """Its tenant and number."""
        return self.tenant, self.leaf_number


class BatchPlace(NamedTuple):
    """A batch whose row can be read, and where its problems are.

    charged_at is the time of its charge as it is stored.
    """

    values: dict[str, Any]
    charged_at: str

    @property
    def tenant(self) -> str:
        """The id of its tenant."""
        return str(self.values["tenant"])

    @property
    def id(self) -> str:
        """The id that the tenant chose."""
        return str(self.values["batch_id"])

    @property
    def record_values(self) -> dict[str, Any]:
        """The values that the batch's record contains."""
        return {name: value for name, value in self.values.items() if name != "batch_number"}

    def items_of(self, chunk: int) -> range:
        """Return the numbers of a chunk's items."""
        size = self.values["chunk_size"]
        return range(chunk * size, min((chunk + 1) * size, self.values["total"]))

    def problem(self, table: str, text: str, **place: Any) -> Problem:
        """Return a problem of the batch, or of a part of it."""
        return Problem(table, text, tenant=self.tenant, batch=self.id)._replace(**place)


class ChunkRows(NamedTuple):
    """Everything that is stored of one chunk; row is None if there is no such chunk.

    item_edge is the row with the tree of its items, which `audit prune` stores.
    """

    number: int
    row: Row | None
    items: Sequence[Row]
    leaves: Sequence[Leaf]
    reissues: Sequence[Row]
    item_edge: Row | None = None

    @property
    def chunk_leaves(self) -> list[Leaf]:
        """The leaves that cover the chunk itself."""
        return [leaf for leaf in self.leaves if leaf.kind in CHUNK_KINDS]


class CheckedChunk(NamedTuple):
    """The numbers of a chunk's items, and their cost, None if that is not known any more."""

    items: int
    cost: Cost | None
    is_pruned: bool = False


def check_chunk(
    batch: BatchPlace, rows: ChunkRows, removed: Sequence[RemovedMonths]
) -> CheckedChunk:
    """Verify a chunk. Raises Found.

    The items of older chunks may have been removed. Then it is verified with the stored edge of
    their tree, unless they were removed by a release that stored none.
    """
    leaf = _leaf_of(batch, rows)
    if rows.row is None:
        if leaf is None:
            raise Found(batch.problem("chunks", "has no row", chunk=rows.number))
        text = f"has no row, but leaf {leaf.leaf_number} covers it"
        raise Found(batch.problem("chunks", text, chunk=rows.number), leaf.place)
    try:
        values = read_row(CHUNK, rows.row)
    except WrongValue as error:
        place: dict[str, Any] = {"tenant": batch.tenant, "batch": batch.id, "chunk": rows.number}
        raise Found(Problem.of_value("chunks", error, **place)) from None
    if not rows.items and _is_removed(batch, rows, values, leaf, removed):
        return CheckedChunk(values["issued"] + values["refused"], None, is_pruned=True)
    items = _read_items(batch, rows, values)
    if rows.item_edge is not None and rows.item_edge[-1] != items.edge.to_bytes():
        raise Found(batch.problem("item_edges", "is not that of its items", chunk=rows.number))
    if leaf is not None:
        _compare_with_leaf(batch, rows, values, items.edge, leaf)
    cost = batch_cost(batch.values["kind"], batch.values["terms"], items.issued, items.sizes)
    return CheckedChunk(len(rows.items), cost)


def _is_removed(
    batch: BatchPlace,
    rows: ChunkRows,
    chunk: dict[str, Any],
    leaf: Leaf | None,
    removed: Sequence[RemovedMonths],
) -> bool:
    """Return whether the items were removed because of their age. Raises Found.

    Compares what was kept with the leaf.
    """
    issued_at, number = chunk["issued_at"], None if leaf is None else leaf.leaf_number
    old = [each for each in removed if each.explains(issued_at, None)]
    before = [each for each in old if each.explains(issued_at, number)]
    edge = _read_item_edge(batch, rows, chunk) if old else None
    if before and edge is not None and leaf is not None:
        _compare_with_leaf(batch, rows, chunk, edge, leaf)
    if before and edge is None and all(each.keeps_edges for each in before):
        problem = batch.problem("item_edges", "is missing", chunk=rows.number)
        raise Found(problem, None if leaf is None else leaf.place)
    # A chunk without a leaf can get one after its items were removed: see adopt.
    return bool(before) or (
        bool(old)
        and leaf is not None
        and entry_hash(_records(batch, chunk, leaf), edge or NO_LEAVES) == leaf.hash
    )


def _read_item_edge(batch: BatchPlace, rows: ChunkRows, chunk: dict[str, Any]) -> RightEdge | None:
    if rows.item_edge is None:
        return None
    try:
        edge = read_row(ITEM_EDGE, rows.item_edge)["edge"]
        return RightEdge.from_bytes(chunk["issued"] + chunk["refused"], edge)
    except ValueError:
        text = "is not that of as many items as the chunk counts"
        raise Found(batch.problem("item_edges", text, chunk=rows.number)) from None


def _leaf_of(batch: BatchPlace, rows: ChunkRows) -> Leaf | None:
    leaves = rows.chunk_leaves
    if not leaves:
        return None
    leaf = leaves[-1]
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


def _read_items(batch: BatchPlace, rows: ChunkRows, chunk: dict[str, Any]) -> Items:
    expected, counted = batch.items_of(rows.number), chunk["issued"] + chunk["refused"]
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
    if items.issued != chunk["issued"]:
        text = f"counts {chunk['issued']} issued items, and has {items.issued}"
        raise Found(batch.problem("chunks", text, chunk=rows.number, column="issued"))
    return items


def _compare_with_leaf(
    batch: BatchPlace, rows: ChunkRows, chunk: dict[str, Any], items: RightEdge, leaf: Leaf
) -> None:
    records = _records(batch, chunk, leaf)
    if leaf.reference is None and entry_hash(records, items) == leaf.hash:
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


def _records(batch: BatchPlace, chunk: dict[str, Any], leaf: Leaf) -> list[bytes]:
    """Return what a leaf covers after the items."""
    record = chunk_record(batch.tenant, batch.id, chunk)
    is_first = leaf.kind == "batch"
    return [record, encode_record("batch", batch.record_values)] if is_first else [record]
