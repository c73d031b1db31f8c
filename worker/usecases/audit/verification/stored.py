"""Batches, chunks and leaves as they are stored, with the records of their rows."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from worker.core.tree.merkle import HASH_BYTES
from worker.core.tree.records import CHUNK_KINDS, chunk_record, encode_record
from worker.db.tree.log_readers import Row
from worker.db.tree.stored_records import UNUSUAL, RecordEncoder, read_json
from worker.db.tree.stored_rows import BATCH, CHUNK
from worker.db.tree.stored_values import WrongValue, read_row
from worker.usecases.audit.verification.problems import Found, Problem

_BATCH_RECORD = RecordEncoder("batch", BATCH)
_CHUNK_RECORD = RecordEncoder("chunk", CHUNK, shared=("tenant", "batch_id"))
_BATCH_COLUMNS, _CHUNK_COLUMNS = (
    {name: position for position, name in enumerate(columns)} for columns in (BATCH, CHUNK)
)
_BATCH_ID, _TENANT, _KIND = (_BATCH_COLUMNS[name] for name in ("batch_id", "tenant", "kind"))
_TERMS, _TOTAL, _CHUNK_SIZE = (_BATCH_COLUMNS[name] for name in ("terms", "total", "chunk_size"))
_DECIDED_AT = _BATCH_COLUMNS["decided_at"]
_ISSUED, _REFUSED, _ISSUED_AT = (
    _CHUNK_COLUMNS[name] for name in ("issued", "refused", "issued_at")
)


class Leaf(NamedTuple):
    """A stored leaf of a chunk, a reissue or a settlement, unchecked."""

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

    @property
    def is_typed(self) -> bool:
        """True if a leaf of a chunk has the types of such a leaf; its tenant and kind are known."""
        is_hash = isinstance(self.hash, bytes) and len(self.hash) == HASH_BYTES
        return is_hash and isinstance(self.leaf_number, int) and self.reference is None


class StoredBatch:
    """A batch whose row can be read, with its record, and where its problems are.

    charged_at is the time of its charge as it is stored.
    """

    __slots__ = ("charged_at", "chunk_size", "id", "kind", "record", "tenant", "terms", "total")

    def __init__(self, row: Row) -> None:
        """Read a row. Raises WrongValue."""
        try:
            self.record = _BATCH_RECORD.encode(row)
        except UNUSUAL:
            values = read_row(BATCH, row)  # names the column
            del values["batch_number"]
            self.record = encode_record("batch", values)
        self.id: str = row[_BATCH_ID]
        self.tenant: str = row[_TENANT]
        self.kind: str = row[_KIND]
        self.total: int = row[_TOTAL]
        self.chunk_size: int = row[_CHUNK_SIZE]
        self.charged_at: str = row[_DECIDED_AT]
        self.terms = read_json(row[_TERMS])[0]

    def items_of(self, chunk: int) -> range:
        """Return the numbers of a chunk's items."""
        size = self.chunk_size
        return range(chunk * size, min((chunk + 1) * size, self.total))

    def problem(self, table: str, text: str, **place: Any) -> Problem:
        """Return a problem of the batch, or of a part of it."""
        return Problem(table, text, tenant=self.tenant, batch=self.id)._replace(**place)


class StoredChunk:
    """A chunk whose row can be read, with its record. issued_at is as it is stored."""

    __slots__ = ("issued", "issued_at", "record", "refused")

    def __init__(self, batch: StoredBatch, row: Row) -> None:
        """Read a row. Raises WrongValue."""
        try:
            self.record = _CHUNK_RECORD.encode((*row, batch.tenant, batch.id))
        except UNUSUAL:
            self.record = chunk_record(batch.tenant, batch.id, read_row(CHUNK, row))
        self.issued: int = row[_ISSUED]
        self.refused: int = row[_REFUSED]
        self.issued_at: str = row[_ISSUED_AT]


@dataclass(slots=True)
class ChunkRows:
    """Everything that is stored of one chunk; row is None if there is no such chunk.

    item_edge is the row with the tree of its items, which `audit prune` stores. settlement is None
    if its upload slots are not settled. chunk_leaves are those of the leaves that cover the chunk
    itself.
    """

    number: int
    row: Row | None
    items: Sequence[Row]
    leaves: Sequence[Leaf]
    reissues: Sequence[Row]
    item_edge: Row | None = None
    settlement: Row | None = None
    chunk_leaves: list[Leaf] = field(init=False)

    def __post_init__(self) -> None:
        self.chunk_leaves = [leaf for leaf in self.leaves if leaf.kind in CHUNK_KINDS]


def read_chunk(batch: StoredBatch, number: int, row: Row) -> StoredChunk:
    """Read the row of a chunk. Raises Found."""
    try:
        return StoredChunk(batch, row)
    except WrongValue as error:
        problem = Problem.of_value("chunks", error, tenant=batch.tenant, batch=batch.id)
        raise Found(problem._replace(chunk=number)) from None
