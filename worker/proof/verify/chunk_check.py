"""Verifies chunks with their batches and items, and that nothing else claims to belong to them."""

from collections.abc import Callable, Iterator
from typing import Any

from worker.core.annotations import SaltedTexts
from worker.ledger.merkle import ItemRow, RightEdge, encode_record, entry_hash, items_edge
from worker.proof.verify.charge_check import Charges, batch_cost
from worker.proof.verify.leaf_check import UNREADABLE, Leaf, LeafCheck, LogState
from worker.proof.verify.log_reader import LogReader, Row, where_tenant
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

_FIRST_ITEM = -(2**63)
_COLUMNS = slice(5, 5 + len(CHUNK.columns))
_BATCH_COLUMNS = slice(_COLUMNS.stop, _COLUMNS.stop + len(BATCH.columns))
_CHUNK_SIZE = _BATCH_COLUMNS.start + list(BATCH.columns.keys()).index("chunk_size")


class ItemRows:
    """The rows of a table that belong to items, in the order of their batches and items."""

    def __init__(self, table: StoredTable, log: LogState) -> None:
        where, params = where_tenant("tenant", log.tenants)
        if params:
            where = f"batch_number IN (SELECT batch_number FROM batches WHERE {where})"  # noqa: S608
        columns, order = table.select(log.reader.dialect), "batch_number, item_number"
        statement = f"SELECT {columns} FROM {table.name} WHERE {where} ORDER BY {order}"  # noqa: S608
        self.table = table
        self._rows = log.reader.stream(statement, *params)
        self.next = next(self._rows, None)

    def take_before(self, batch_number: int, item_number: int) -> list[Row]:
        """Remove and return the rows before an item of a batch. Raises Found."""
        end, taken = (batch_number, item_number), list[Row]()
        try:
            while self.next is not None and self.next[:2] < end:
                taken.append(self.next)
                self.next = next(self._rows, None)
        except TypeError:
            self.next = next(self._rows, None)
            text = "has a number that is no whole number"
            raise Found(Problem(self.table.name, text)) from None
        return taken


class Items:
    """The items of a chunk: how many were issued, and the sum of the sizes that these name."""

    def __init__(self, rows: list[Row], annotations: list[Row]) -> None:
        self._rows = rows
        self._annotations = annotations
        self.number: int | None = None
        self.issued = self.sizes = 0

    def edge(self) -> RightEdge:
        """Return the tree of their records. After an error, number is that of the wrong item."""
        annotations = {}
        for row in self._annotations:
            self.number = row[1]
            values = ANNOTATION.read(row)
            own = {name: values[name] for name in SaltedTexts._fields}
            annotations[self.number] = SaltedTexts(**own)
        return items_edge(self._read(), annotations)

    def _read(self) -> Iterator[ItemRow]:
        for row in self._rows:
            _, self.number, key, code, detail, digest = row
            content = None if detail is None else read_json("detail", detail)
            if code is None:
                self.issued += 1
                size = content.get("size") if isinstance(content, dict) else None
                self.sizes += size if isinstance(size, int) else 0
            yield row[1], key, code, content, digest


class ChunkCheck(LeafCheck):
    """A leaf covers the items of a chunk, the chunk, and its batch if the chunk opened it."""

    table, kinds = CHUNK, ("batch", "chunk")

    def __init__(self, log: LogState, charges: Charges, on_progress: Callable[[int], None]) -> None:
        super().__init__(log)
        self._charges = charges
        self._on_progress = on_progress
        self._item_rows = ItemRows(GRANT, log), ItemRows(ANNOTATION, log)
        self._items: list[Row] = []
        self._annotations: list[Row] = []

    def _rows(self) -> Iterator[Row]:
        dialect, tenant = self.reader.dialect, self._by_bytes("batches.tenant")
        where, params = where_tenant("batches.tenant", self.log.tenants)
        return self.reader.stream(
            f"SELECT chunks.batch_number, chunks.chunk_number, {tenant}, NULL, batches.batch_id,"  # noqa: S608
            f" {CHUNK.select(dialect)}, {BATCH.select(dialect)}, item_edges.edge FROM chunks"
            " LEFT JOIN batches ON batches.batch_number = chunks.batch_number LEFT JOIN item_edges"
            " ON item_edges.batch_number = chunks.batch_number"
            " AND item_edges.chunk_number = chunks.chunk_number"
            f" WHERE {where} ORDER BY chunks.batch_number, chunks.chunk_number",
            *params,
        )

    def run(self) -> Iterator[Problem]:
        """Yield what is wrong with the rows or their leaves, and an item after all chunks."""
        yield from super().run()
        for item_rows in self._item_rows:
            if item_rows.next is not None:
                yield self._stray(item_rows, item_rows.next)

    def _check(self, key: Row, rows: list[Row], leaves: list[Leaf]) -> None:
        number, chunk, *_ = key
        size = rows[0][_CHUNK_SIZE] if rows else None
        # Without a batch, its items belong to no chunk: those of other batches must not.
        start, end = (number, _FIRST_ITEM), (number + 1, _FIRST_ITEM)
        if isinstance(size, int) and isinstance(chunk, int):
            start, end = (number, chunk * size), (number, (chunk + 1) * size)
        elif not rows:
            end = start
        strays = [
            (item_rows, row)
            for item_rows in self._item_rows
            for row in item_rows.take_before(*start)
        ]
        self._items, self._annotations = (each.take_before(*end) for each in self._item_rows)
        if strays:
            raise Found(self._stray(*strays[0]))
        super()._check(key, rows, leaves)

    def _check_annotated(self, key: Row) -> None:
        """Raise Found for a row without a text, or with those of an item that does not exist."""
        if not self._annotations:  # most chunks have none
            return
        numbers = {row[1] for row in self._items}
        for _, item, *texts in self._annotations:
            if item not in numbers or not any(texts):
                text = "has no text" if item in numbers else "belongs to no item"
                raise self._found(key, text, table=ANNOTATION.name, item=item)

    def _stray(self, item_rows: ItemRows, row: Row) -> Problem:
        batch, table = self._batch_id(row[0]), item_rows.table.name
        return Problem(table, "belongs to no chunk", batch=batch, item=row[1])

    def _leaf_hash(self, rows: list[Row], leaf: Leaf) -> bytes:
        (row,) = rows
        chunk, batch = CHUNK.read(row[_COLUMNS]), BATCH.read(row[_BATCH_COLUMNS])
        own = {"tenant": batch["tenant"], "batch_id": batch["batch_id"]}
        records = [encode_record("chunk", chunk, **own)]
        if leaf.kind == "batch":
            records.append(encode_record("batch", batch))
        if not self._items and self._is_explained(chunk, leaf):
            return self._removed_hash(row, chunk, records, leaf)
        self._check_annotated(leaf.key)
        items = Items(self._items, self._annotations)
        try:
            edge = items.edge()
        except UNREADABLE as error:
            text = str(error) if isinstance(error, WrongValue) else "cannot be read"
            raise self._found(leaf.key, text, table="grants", item=items.number) from None
        if row[-1] is not None and row[-1] != edge.to_bytes():
            raise self._found(leaf.key, "is not that of its items", table="item_edges")
        expected = entry_hash(records, edge)
        if expected == leaf.hash:
            cost = batch_cost(batch["kind"], batch["terms"], items.issued, items.sizes)
            self._charges.add(batch["tenant"], batch["decided_at"], cost)
            self.log.counts.update(chunks=1, items=len(self._items))
            self._on_progress(self.log.counts["items"])
        return expected

    def _is_explained(self, chunk: dict[str, Any], leaf: Leaf) -> bool:
        removals = self.log.removals[leaf.tenant]
        return any(each.explains(chunk["issued_at"], leaf.number) for each in removals)

    def _removed_hash(
        self, row: Row, chunk: dict[str, Any], records: list[bytes], leaf: Leaf
    ) -> bytes:
        """Return the hash of the leaf of a chunk whose items were removed because of their age."""
        if row[-1] is None:
            raise self._found(leaf.key, "is missing", table="item_edges", leaf=leaf.number)
        count = chunk["issued"] + chunk["refused"]
        try:
            edge = RightEdge.from_bytes(count, row[-1])
        except UNREADABLE:
            text = "is not that of as many items as the chunk counts"
            raise self._found(leaf.key, text, table="item_edges") from None
        expected = entry_hash(records, edge)
        if expected == leaf.hash:
            batch = BATCH.read(row[_BATCH_COLUMNS])
            self._charges.add(batch["tenant"], batch["decided_at"], None)
            self.log.counts.update(chunks=1, pruned=count)
            self.log.missing.update({(leaf.tenant, "chunks"): 1, (leaf.tenant, "items"): count})
        return expected

    def _differing(self, key: Row, rows: list[Row], leaf: Leaf) -> Found:
        row = rows[0]
        chunk, batch = CHUNK.read(row[_COLUMNS]), BATCH.read(row[_BATCH_COLUMNS])
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


_OTHER_ROWS = (
    (
        "batches",
        "no leaf covers it, or several",
        (
            "SELECT batches.tenant, batches.batch_id, NULL FROM batches WHERE {where} AND 1 <>"
            " (SELECT count(*) FROM leaves WHERE leaves.batch_number = batches.batch_number"
            " AND leaves.kind = 'batch')"
        ),
    ),
    (
        "item_edges",
        "belongs to no chunk",
        (
            "SELECT batches.tenant, batches.batch_id, item_edges.chunk_number FROM item_edges"
            " LEFT JOIN batches ON batches.batch_number = item_edges.batch_number WHERE {where}"
            " AND NOT EXISTS (SELECT 1 FROM chunks"
            " WHERE chunks.batch_number = item_edges.batch_number"
            " AND chunks.chunk_number = item_edges.chunk_number)"
        ),
    ),
)
_REFUSED_CHUNKS = (
    (
        "refused_chunks",
        "the chunk has refused items, and is missing",
        (
            "SELECT batches.tenant, batches.batch_id, chunks.chunk_number FROM chunks"
            " JOIN batches ON batches.batch_number = chunks.batch_number WHERE {where}"
            " AND chunks.refused > 0 AND NOT EXISTS (SELECT 1 FROM refused_chunks WHERE"
            " tenant = batches.tenant AND batch_number = chunks.batch_number"
            " AND chunk_number = chunks.chunk_number)"
        ),
    ),
    (
        "refused_chunks",
        "has none",
        (
            "SELECT refused_chunks.tenant, batches.batch_id, refused_chunks.chunk_number"
            " FROM refused_chunks LEFT JOIN batches"
            " ON batches.batch_number = refused_chunks.batch_number"
            " AND batches.tenant = refused_chunks.tenant LEFT JOIN chunks"
            " ON chunks.batch_number = refused_chunks.batch_number"
            " AND chunks.chunk_number = refused_chunks.chunk_number"
            " WHERE {listed} AND (batches.tenant IS NULL OR coalesce(chunks.refused, 0) = 0)"
        ),
    ),
)


def check_other_rows(reader: LogReader, tenants: tuple[str, ...]) -> Iterator[Problem]:
    """Yield batches without one first leaf, and the trees of items of no chunk."""
    return _problems(reader, tenants, _OTHER_ROWS)


def check_refused_chunks(reader: LogReader, tenants: tuple[str, ...]) -> Iterator[Problem]:
    """Yield where the list of chunks with refused items differs from the chunks.

    Questions for refusals read this list. No leaf covers it: it follows from the chunks, which
    have to be verified before.
    """
    return _problems(reader, tenants, _REFUSED_CHUNKS)


def _problems(
    reader: LogReader, tenants: tuple[str, ...], queries: tuple[tuple[str, str, str], ...]
) -> Iterator[Problem]:
    where, params = where_tenant("batches.tenant", tenants)
    listed, _ = where_tenant("refused_chunks.tenant", tenants)
    for table, text, query in queries:
        for tenant, batch, chunk in reader.stream(
            query.format(where=where, listed=listed), *params
        ):
            yield Problem(table, text, tenant=tenant, batch=batch, chunk=chunk)
