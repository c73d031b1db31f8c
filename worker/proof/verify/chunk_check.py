"""Verifies chunks with their batches and items, and that nothing else claims to belong to them."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, groupby
from operator import itemgetter
from typing import Any

from worker.ledger.merkle import ItemRow, RightEdge, encode_record, entry_hash, items_edge
from worker.proof.verify.charge_check import Charges, batch_cost
from worker.proof.verify.config_check import signer_problem
from worker.proof.verify.leaf_check import UNREADABLE, Key, Leaf, LeafCheck, LogState
from worker.proof.verify.log_reader import LogReader, Row
from worker.proof.verify.stored_rows import (
    ANNOTATION,
    BATCH,
    CHUNK,
    GRANT,
    Found,
    Problem,
    StoredTable,
    WrongValue,
    read_json,
)
from worker.rules.annotations import SaltedTexts
from worker.rules.issued_grants import issued_kind


class Items:
    """The items of a chunk: how many were issued, as which kind, and the sum of their sizes.

    kind is that of the batch, until an item has been read that was issued as another one.
    """

    def __init__(self, kind: str, rows: list[Row], annotations: list[Row]) -> None:
        self.kind = kind
        self._rows = rows
        self._annotations = annotations
        self.number: int | None = None
        self.issued = self.sizes = 0

    def edge(self) -> RightEdge:
        """Return the tree of their records. After an error, number is that of the wrong item."""
        annotations = {}
        for row in self._annotations:
            self.number = row[1]
            _, _, *texts = ANNOTATION.read(row).values()
            annotations[self.number] = SaltedTexts(*texts)
        return items_edge(self._read(), annotations)

    def _read(self) -> Iterator[ItemRow]:
        for row in self._rows:
            _, self.number, key, code, detail, digest = row
            content = None if detail is None else read_json("detail", detail)
            if code is None:
                self.issued += 1
                if isinstance(content, dict):
                    size = content.get("size")
                    self.sizes += size if isinstance(size, int) else 0
                    self.kind = issued_kind(self.kind, content)
            yield row[1], key, code, content, digest


class ChunkCheck(LeafCheck):
    """A leaf covers the items of a chunk, the chunk, and its batch if the chunk opened it."""

    table, kinds = CHUNK, ("batch", "chunk")

    def __init__(self, log: LogState, charges: Charges, on_progress: Callable[[int], None]) -> None:
        super().__init__(log)
        self._charges = charges
        self._on_progress = on_progress
        self._items: list[Row] = []
        self._annotations: list[Row] = []

    def _rows(self) -> Iterator[tuple[Key, Row]]:
        """Yield the rows of chunks, those of their batches, and the trees of removed items."""
        key = Key("chunks.batch_number", "chunks.chunk_number", "batches.tenant", "NULL")
        dialect = self.reader.dialect
        columns = f"{CHUNK.select(dialect)}, {BATCH.select(dialect)}, item_edges.edge"
        source = (
            "chunks LEFT JOIN batches USING (batch_number)"
            " LEFT JOIN item_edges USING (batch_number, chunk_number)"
        )
        end = len(CHUNK.columns)
        for own_key, row in self._select(key, columns, source, "", "5"):
            yield own_key, (row[:end], row[end:-1], row[-1])

    def _parts(self) -> Sequence[Iterator[tuple[Key, list[Row]]]]:
        return self._rows_of_items(GRANT), self._rows_of_items(ANNOTATION)

    def _rows_of_items(self, table: StoredTable) -> Iterator[tuple[Key, list[Row]]]:
        """Yield the rows of each chunk's items. Those without a batch have no chunk."""
        name = table.name
        chunk = f"{name}.item_number / nullif(batches.chunk_size, 0)"
        rows = self.reader.select(
            f"{name}.batch_number, {chunk}, batches.tenant, {table.select(self.reader.dialect)}",
            f"{name} LEFT JOIN batches USING (batch_number)",
            "batches.tenant IN {}",
            f"ORDER BY {name}.batch_number, {name}.item_number",
        )
        for (batch, number, tenant), group in groupby(rows, itemgetter(0, 1, 2)):
            yield Key(batch, number, tenant, None), [row[3:] for row in group]

    def _check(self, key: Key, rows: list[Row], leaves: list[Leaf], *parts: list[Any]) -> None:
        self._items, self._annotations = (list(chain.from_iterable(part)) for part in parts)
        if not rows and not leaves:
            table, own = (GRANT, self._items) if self._items else (ANNOTATION, self._annotations)
            raise self._found(key, "belongs to no chunk", table=table.name, item=own[0][1])
        super()._check(key, rows, leaves)
        if self.log.config is not None:
            text = signer_problem(self.log.config, key.tenant, CHUNK.read(rows[0][0]))
            if text is not None:
                raise self._found(key, text)

    def _check_annotated(self, key: Key) -> None:
        """Raise Found for a row without a text, or with those of an item that does not exist."""
        if not self._annotations:  # most chunks have none
            return
        numbers = {row[1] for row in self._items}
        for _, item, *texts in self._annotations:
            if item not in numbers or not any(texts):
                text = "has no text" if item in numbers else "belongs to no item"
                raise self._found(key, text, table=ANNOTATION.name, item=item)

    def _leaf_hash(self, rows: list[Row], leaf: Leaf) -> bytes:
        ((chunk_row, batch_row, stored_edge),) = rows
        chunk, batch = CHUNK.read(chunk_row), BATCH.read(batch_row)
        own = {"tenant": batch["tenant"], "batch_id": batch["batch_id"]}
        records = [encode_record("chunk", chunk, **own)]
        if leaf.kind == "batch":
            records.append(encode_record("batch", batch))
        if not self._items and self._is_explained(chunk, leaf):
            return self._removed_hash(stored_edge, chunk, batch, records, leaf)
        self._check_annotated(leaf.key)
        items = Items(batch["kind"], self._items, self._annotations)
        try:
            edge = items.edge()
        except UNREADABLE as error:
            text = str(error) if isinstance(error, WrongValue) else "cannot be read"
            raise self._found(leaf.key, text, table="grants", item=items.number) from None
        if stored_edge is not None and stored_edge != edge.to_bytes():
            raise self._found(leaf.key, "is not that of its items", table="item_edges")
        expected = entry_hash(records, edge)
        if expected == leaf.hash:
            cost = batch_cost(items.kind, batch["terms"], items.issued, items.sizes)
            self._charges.add(batch["tenant"], batch["decided_at"], cost)
            self.log.counts["items"] += len(self._items)
            self._on_progress(self.log.counts["items"])
        return expected

    def _is_explained(self, chunk: dict[str, Any], leaf: Leaf) -> bool:
        removals = self.log.removals[leaf.key.tenant]
        return any(each.explains(chunk["issued_at"], leaf.number) for each in removals)

    def _removed_hash(
        self,
        stored_edge: Any,
        chunk: dict[str, Any],
        batch: dict[str, Any],
        records: list[bytes],
        leaf: Leaf,
    ) -> bytes:
        """Return the hash of the leaf of a chunk whose items were removed because of their age."""
        if stored_edge is None:
            raise self._found(leaf.key, "is missing", table="item_edges", leaf=leaf.number)
        count, tenant = chunk["issued"] + chunk["refused"], batch["tenant"]
        try:
            edge = RightEdge.from_bytes(count, stored_edge)
        except UNREADABLE:
            text = "is not that of as many items as the chunk counts"
            raise self._found(leaf.key, text, table="item_edges") from None
        expected = entry_hash(records, edge)
        if expected == leaf.hash:
            self._charges.add(tenant, batch["decided_at"], None)
            self.log.counts["pruned"] += count
            self.log.missing.update({(tenant, "chunks"): 1, (tenant, "items"): count})
        return expected

    def _differing(self, key: Key, rows: list[Row], leaf: Leaf) -> Found:
        chunk_row, batch_row, _ = rows[0]
        chunk, batch = CHUNK.read(chunk_row), BATCH.read(batch_row)
        first = chunk["chunk_number"] * batch["chunk_size"]
        numbers = range(first, min(first + batch["chunk_size"], batch["total"]))
        existing = {item[1] for item in self._items}
        missing = next((n for n in numbers if n not in existing), None)
        if missing is not None and chunk["issued"] + chunk["refused"] == len(numbers):
            last = next(n for n in reversed(numbers) if n not in existing)
            place = {"item": missing, "last_item": last, "table": "grants"}
            return self._found(key, "is missing", **place)
        what = "batch, chunk or items" if leaf.kind == "batch" else "chunk or items"
        text = f"its {what} differ from what leaf {leaf.number} covers"
        place = {"item": numbers.start, "last_item": numbers.stop - 1, "leaf": leaf.number}
        return self._found(key, text, **place)


def check_other_rows(reader: LogReader) -> Iterator[Problem]:
    """Yield batches without one first leaf, and the trees of items of no chunk."""
    count = "SELECT count(*) FROM leaves WHERE leaves.batch_number = batches.batch_number"
    condition = f"AND 1 <> ({count} AND leaves.kind = 'batch')"
    for row in reader.select("tenant, batch_id", "batches", "tenant IN {}", condition):
        yield Problem("batches", "no leaf covers it, or several", *row)
    source = (
        "item_edges LEFT JOIN batches USING (batch_number)"
        " LEFT JOIN chunks USING (batch_number, chunk_number)"
    )
    columns, condition = f"{_BATCH}, item_edges.chunk_number", "AND chunks.batch_number IS NULL"
    for row in reader.select(columns, source, "batches.tenant IN {}", condition):
        yield Problem("item_edges", "belongs to no chunk", *row)


_BATCH = "batches.tenant, batches.batch_id"


def check_refused_chunks(reader: LogReader) -> Iterator[Problem]:
    """Yield where the list of chunks with refused items differs from the chunks.

    Questions for refusals read this list. No leaf covers it: it follows from the chunks, which
    have to be verified before.
    """
    source = (
        "chunks JOIN batches USING (batch_number)"
        " LEFT JOIN refused_chunks USING (tenant, batch_number, chunk_number)"
    )
    columns = f"{_BATCH}, chunks.chunk_number"
    condition = "AND chunks.refused > 0 AND refused_chunks.tenant IS NULL"
    for row in reader.select(columns, source, "batches.tenant IN {}", condition):
        yield Problem("refused_chunks", "the chunk has refused items, and is missing", *row)
    source = (
        "refused_chunks LEFT JOIN batches USING (tenant, batch_number)"
        " LEFT JOIN chunks USING (batch_number, chunk_number)"
    )
    columns = "refused_chunks.tenant, batches.batch_id, refused_chunks.chunk_number"
    condition = "AND (batches.tenant IS NULL OR coalesce(chunks.refused, 0) = 0)"
    for row in reader.select(columns, source, "refused_chunks.tenant IN {}", condition):
        yield Problem("refused_chunks", "has none", *row)
