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
from worker.db.tree.stored_rows import CHUNK, LEAF
from worker.db.tree.stored_values import WrongValue, read_row
from worker.usecases.audit.verification.charges import batch_cost
from worker.usecases.audit.verification.items import Items, WrongItem
from worker.usecases.audit.verification.problems import Found, Problem
from worker.usecases.audit.verification.prunes import PrunedCount, Removal


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
    """Everything that is stored of one chunk; row is None if there is no such chunk."""

    number: int
    row: Row | None
    items: Sequence[Row]
    leaves: Sequence[Leaf]
    reissues: Sequence[Row]

    @property
    def chunk_leaves(self) -> list[Leaf]:
        """The leaves that cover the chunk itself."""
        return [leaf for leaf in self.leaves if leaf.kind in CHUNK_KINDS]


class CheckedChunk(NamedTuple):
    """The numbers of a chunk's items, and their cost, None if that is not known any more."""

    items: int
    cost: Cost | None
    pruned: PrunedCount = PrunedCount()


def check_chunk(batch: BatchPlace, rows: ChunkRows, removal: Removal) -> CheckedChunk:
    """Verify a chunk, whose items may be missing if the removal includes it. Raises Found."""
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
    if not rows.items and _is_removed(batch, values, leaf, removal):
        return CheckedChunk(0, None, PrunedCount(1, values["issued"] + values["refused"]))
    items = _read_items(batch, rows, values)
    if leaf is not None:
        _compare_with_leaf(batch, rows, values, items, leaf)
    cost = batch_cost(batch.values["kind"], batch.values["terms"], items.issued, items.sizes)
    return CheckedChunk(len(rows.items), cost)


def _is_removed(
    batch: BatchPlace, chunk: dict[str, Any], leaf: Leaf | None, removal: Removal
) -> bool:
    if not removal.includes(chunk["issued_at"]):
        return False
    # A newer leaf covers items as well, unless `audit adopt` added it after their removal.
    if leaf is None or leaf.leaf_number < removal.leaf:
        return True
    return _hash(batch, chunk, NO_LEAVES, leaf) == leaf.hash


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
    batch: BatchPlace, rows: ChunkRows, chunk: dict[str, Any], items: Items, leaf: Leaf
) -> None:
    if leaf.reference is None and _hash(batch, chunk, items.edge, leaf) == leaf.hash:
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


def _hash(batch: BatchPlace, chunk: dict[str, Any], items: RightEdge, leaf: Leaf) -> bytes:
    records = [chunk_record(batch.tenant, batch.id, chunk)]
    if leaf.kind == "batch":
        records.append(encode_record("batch", batch.record_values))
    return entry_hash(records, items)
