"""Writes exported rows as Parquet: typed columns, compressed with zstd, in row groups."""

from types import NoneType
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from models.grants import INDEXED_TEXTS
from worker.audit.audit_rows import ChunkItems, GrantRecord
from worker.audit.grant_filters import ISSUED

ROWS_PER_GROUP = 100_000

_MOMENT = pa.timestamp("us", tz="UTC")
_NAME = pa.dictionary(pa.int32(), pa.string())
_TYPES = {"time": _MOMENT, "expires_at": _MOMENT} | dict.fromkeys(
    (*INDEXED_TEXTS, "key", "grant"), pa.string()
)
SCHEMA = pa.schema(
    [
        pa.field(name, _TYPES.get(name, _NAME), nullable=NoneType in get_args(hint))
        for name, hint in get_type_hints(GrantRecord).items()
    ]
)


class ParquetRowWriter:
    """Writes row groups of ROWS_PER_GROUP rows, or slightly more."""

    def __init__(self, stream: Any) -> None:
        self._writer = pq.ParquetWriter(pa.PythonFile(stream, mode="w"), SCHEMA, compression="zstd")
        self._columns: list[list[Any]] = [[] for _ in SCHEMA]

    def write(self, block: list[ChunkItems]) -> None:
        """Add the rows of a block, and write a row group if they are enough."""
        for head, items in block:
            expires_at = head.expires_at
            values = [
                *([value] * len(items) for value in head.values.values()),
                [key for _, _, key, _ in items],
                [code or ISSUED for _, _, _, code in items],
                [None if code else expires_at for _, _, _, code in items],
                [f"{head.batch_id}.{number}" for _, number, _, _ in items],
            ]
            for column, added in zip(self._columns, values, strict=True):
                column.extend(added)
        if len(self._columns[0]) >= ROWS_PER_GROUP:
            self._flush()

    def finish(self) -> None:
        """Write the last row group and the footer."""
        if self._columns[0]:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        columns = zip(self._columns, SCHEMA, strict=True)
        arrays = [pa.array(values, field.type) for values, field in columns]
        table = pa.Table.from_arrays(arrays, schema=SCHEMA)
        self._writer.write_table(table, row_group_size=len(table))
        self._columns = [[] for _ in SCHEMA]
