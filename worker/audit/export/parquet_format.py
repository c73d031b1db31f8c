"""Writes exported rows as Parquet: typed columns, compressed with zstd, in row groups."""

from array import array
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from worker.audit.audit_rows import ChunkHead, ChunkItems, GrantRecord, ItemRow
from worker.audit.export.export_run import HashedStream
from worker.audit.grant_filters import ISSUED

ROWS_PER_GROUP = 100_000

_MOMENT = pa.timestamp("us", tz="UTC")
_NAME = pa.dictionary(pa.int32(), pa.string())
_TYPES = {"time": _MOMENT, "expires_at": _MOMENT} | dict.fromkeys(
    ("recipient", "key", "grant"), pa.string()
)
_OPTIONAL = {"signed_by", "recipient", "reason", "expires_at"}
SCHEMA = pa.schema(
    [
        pa.field(name, _TYPES.get(name, _NAME), nullable=name in _OPTIONAL)
        for name in GrantRecord._fields
    ]
)

_INDEX = pa.int32()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class ParquetRowWriter:
    """Writes row groups of ROWS_PER_GROUP rows, or slightly more."""

    def __init__(self, stream: HashedStream) -> None:
        self._writer = pq.ParquetWriter(pa.PythonFile(stream, mode="w"), SCHEMA, compression="zstd")
        self._group = _RowGroup()

    def write(self, block: list[ChunkItems]) -> None:
        """Add the rows of a block, and write a row group if they are enough."""
        for head, items in block:
            if items:
                self._group.add(head, items)
        if len(self._group.keys) >= ROWS_PER_GROUP:
            self._flush()

    def finish(self) -> None:
        """Write the last row group and the footer."""
        if self._group.keys:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        table = self._group.to_table()
        self._writer.write_table(table, row_group_size=len(table))
        self._group = _RowGroup()


class _RowGroup:
    """Values of chunks, and of their items; chunks has the index of the chunk of each item."""

    def __init__(self) -> None:
        self.heads: list[tuple[Any, ...]] = []
        self.chunks = array("i")
        self.keys: list[str] = []
        self.decisions: list[str] = []
        self.expiries: list[int | None] = []
        self.grants: list[str] = []

    def add(self, head: ChunkHead, items: Sequence[ItemRow]) -> None:
        """Add a chunk with some of its items."""
        self.chunks.extend(repeat(len(self.heads), len(items)))
        self.heads.append((_microseconds(head.time), *head[1:8]))
        expires_at = _microseconds(head.expires_at)
        batch_id = head.batch_id
        self.keys += [key for _, _, key, _ in items]
        self.decisions += [code or ISSUED for _, _, _, code in items]
        self.expiries += [None if code else expires_at for _, _, _, code in items]
        self.grants += [f"{batch_id}.{number}" for _, number, _, _ in items]

    def to_table(self) -> pa.Table:
        """Return the rows as a table. Arrow repeats the values of a chunk for its items."""
        buffers = [None, pa.py_buffer(self.chunks)]
        chunks = pa.Array.from_buffers(_INDEX, len(self.chunks), buffers)
        shared = zip(*self.heads, strict=True)
        own = self.keys, self.decisions, self.expiries, self.grants
        types = [field.type for field in SCHEMA]
        count = len(types) - len(own)
        arrays = [
            *(
                pa.array(values, type_).take(chunks)
                for values, type_ in zip(shared, types[:count], strict=True)
            ),
            *(pa.array(values, type_) for values, type_ in zip(own, types[count:], strict=True)),
        ]
        return pa.Table.from_arrays(arrays, schema=SCHEMA)


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
