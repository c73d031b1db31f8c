"""Writes exported rows as Parquet: typed columns, compressed with zstd, in row groups."""

from itertools import repeat
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from worker.db.audit.filters import ISSUED
from worker.db.audit.stream import ChunkItems
from worker.usecases.audit_export.run import HashedStream

ROWS_PER_GROUP = 100_000

_MOMENT = pa.timestamp("us", tz="UTC")
_NAME = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        pa.field("time", _MOMENT, nullable=False),
        pa.field("tenant", _NAME, nullable=False),
        pa.field("requested_by", _NAME, nullable=False),
        pa.field("signed_by", _NAME),
        pa.field("recipient", pa.string()),
        pa.field("reason", _NAME),
        pa.field("bucket", _NAME, nullable=False),
        pa.field("kind", _NAME, nullable=False),
        pa.field("key", pa.string(), nullable=False),
        pa.field("decision", _NAME, nullable=False),
        pa.field("expires_at", _MOMENT),
        pa.field("grant", pa.string(), nullable=False),
    ]
)


class ParquetRowWriter:
    """Writes row groups of ROWS_PER_GROUP rows, or slightly more."""

    def __init__(self, stream: HashedStream) -> None:
        self._writer = pq.ParquetWriter(pa.PythonFile(stream, mode="w"), SCHEMA, compression="zstd")
        self._columns = _new_columns()

    def write(self, block: list[ChunkItems]) -> None:
        """Add the rows of a block, and write a row group if they are enough."""
        for head, items in block:
            count = len(items)
            shared = (
                *(head.time, head.tenant, head.requested_by, head.signed_by, head.recipient),
                *(head.reason, head.bucket, head.kind),
            )
            for column, value in zip(self._columns, shared, strict=False):
                column.extend(repeat(value, count))
            expires_at = head.expires_at
            keys, decisions, expiries, grants = self._columns[len(shared) :]
            keys.extend([key for _, _, key, _ in items])
            decisions.extend([code or ISSUED for _, _, _, code in items])
            expiries.extend([None if code else expires_at for _, _, _, code in items])
            grants.extend([f"{head.batch_id}.{number}" for _, number, _, _ in items])
        if len(self._columns[0]) >= ROWS_PER_GROUP:
            self._flush()

    def finish(self) -> None:
        """Write the last row group and the footer."""
        if self._columns[0]:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        arrays = [
            pa.array(values, field.type)
            for values, field in zip(self._columns, SCHEMA, strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=SCHEMA)
        self._writer.write_table(table, row_group_size=len(table))
        self._columns = _new_columns()


def _new_columns() -> list[list[Any]]:
    return [[] for _ in SCHEMA]
