"""Writes the rows of a generated log in large transactions, with its trees and its key lookup."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import Engine, insert, text

from bench.audit.data import DataPlan, GeneratedBatch, GeneratedChunk, generate_batches
from bench.audit.key_segments import KeyCollector
from models import Batch, Chunk, Grant, Leaf, TreeHead, Usage
from models.base import Base
from valetkey.wire.refusals import Window
from worker.base.database_engine import insert_rows
from worker.ledger.merkle import (
    NO_LEAVES,
    RightEdge,
    encode_record,
    entry_hash,
    items_edge,
)
from worker.proof.verify.charge_check import batch_cost
from worker.rules.quota_rules import (
    NO_COST,
    PAST_WINDOWS,
    SHORT_WINDOWS_KEPT,
    Cost,
    window_start,
)

_ROWS_PER_TRANSACTION = 50_000
_NEWEST_ROWS = 100_000
"""The rows whose keys are left to the upkeep worker's job, which makes small segments of them."""
_COLUMNS: dict[type[Base], tuple[str, ...]] = {
    Batch: tuple(Batch.__table__.columns.keys()),
    Chunk: tuple(Chunk.__table__.columns.keys()),
    Grant: ("batch_number", "item_number", "object_key", "code", "detail", "digest"),
    Leaf: ("tenant", "leaf_number", "kind", "batch_number", "chunk_number", "reference", "hash"),
}
_SET_SEQUENCE = (
    "SELECT setval(pg_get_serial_sequence('batches', 'batch_number'),"
    " (SELECT max(batch_number) FROM batches))"
)
_Row = tuple[Any, ...]


class _Block(NamedTuple):
    """The rows of one transaction, and the keys of a segment if it is full."""

    rows: dict[type[Base], list[_Row]]
    keys: KeyCollector | None


class LogWriter:
    """Collects rows and writes them in large transactions.

    PostgreSQL inserts rows while the next ones are generated. SQLite would lose by that: the thread
    that inserts would give up Python's global lock at each row, and wait to get it back.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_postgres = engine.dialect.name == "postgresql"
        self._batch_row = _row_maker(engine, Batch)
        self._chunk_row = _row_maker(engine, Chunk)
        self._edges: dict[str, RightEdge] = {}
        self._rows: dict[type[Base], list[_Row]] = {table: [] for table in _COLUMNS}
        self._keys = KeyCollector()
        self._usage: dict[tuple[str, Window, datetime], Cost] = {}
        self._short_since = datetime.now(UTC) - SHORT_WINDOWS_KEPT
        self._inserting: Future[None] | None = None

    def write(self, plan: DataPlan) -> None:
        """Write the log of a plan into empty tables."""
        with ThreadPoolExecutor(max_workers=1) as thread:
            self._write_rows(plan, thread)
            self._flush(thread)
            self._wait()
        with self._engine.begin() as connection:
            self._keys.write(connection)
            connection.execute(insert(TreeHead), list(self._heads()))
            if self._usage:
                connection.execute(insert(Usage), list(self._usage_rows()))
            if self._is_postgres:
                connection.execute(text(_SET_SEQUENCE))

    def _write_rows(self, plan: DataPlan, thread: ThreadPoolExecutor) -> None:
        without_key = plan.rows
        for batch in generate_batches(plan):
            self._rows[Batch].append(self._batch_row(batch.values))
            for chunk in batch.chunks:
                self._add_chunk(batch, chunk)
                without_key -= len(chunk.rows)
                if without_key >= _NEWEST_ROWS:
                    self._keys.add(batch, chunk)
                if len(self._rows[Grant]) >= _ROWS_PER_TRANSACTION:
                    self._flush(thread)

    def _heads(self) -> Iterator[dict[str, Any]]:
        for tenant, edge in self._edges.items():
            yield {"tenant": tenant, "size": edge.size, "edge": edge.to_bytes()}

    def _usage_rows(self) -> Iterator[dict[str, Any]]:
        for (tenant, window, start), cost in self._usage.items():
            yield {"tenant": tenant, "window": window, "window_start": start, **cost._asdict()}

    def _charge(self, batch: GeneratedBatch, chunk: GeneratedChunk) -> None:
        """Count the usage of the windows that the service keeps."""
        values = batch.values
        issued = [row for row in chunk.rows if row.code is None]
        sizes = sum((row.detail or {}).get("size", 0) for row in issued)
        cost = batch_cost(values["kind"], values["terms"], len(issued), sizes) or NO_COST
        is_recent = values["decided_at"] >= self._short_since
        for window in PAST_WINDOWS if is_recent else PAST_WINDOWS[-2:]:
            key = values["tenant"], window, window_start(window, values["decided_at"])
            if cost != NO_COST:
                self._usage[key] = self._usage.get(key, NO_COST).plus(cost)

    def _add_chunk(self, batch: GeneratedBatch, chunk: GeneratedChunk) -> None:
        number, tenant = batch.values["batch_number"], batch.values["tenant"]
        self._rows[Chunk].append(self._chunk_row(chunk.values))
        self._charge(batch, chunk)
        self._rows[Grant] += [
            (number, item, key, code, detail and json.dumps(detail), digest)
            for item, key, code, detail, digest in chunk.rows
        ]
        names = {"tenant": tenant, "batch_id": batch.values["batch_id"]}
        records = [encode_record("chunk", chunk.values, **names)]
        chunk_number = chunk.values["chunk_number"]
        if chunk_number == 0:
            records.append(encode_record("batch", batch.values))
        hash_ = entry_hash(records, items_edge(chunk.rows))
        edge = self._edges.get(tenant, NO_LEAVES)
        kind = "chunk" if chunk_number else "batch"
        self._rows[Leaf].append((tenant, edge.size, kind, number, chunk_number, None, hash_))
        self._edges[tenant] = edge.append(hash_)

    def _flush(self, thread: ThreadPoolExecutor) -> None:
        block = _Block(self._rows, self._keys if self._keys.is_full else None)
        self._rows = {table: [] for table in _COLUMNS}
        if block.keys is not None:
            self._keys = KeyCollector()
        self._wait()
        if self._is_postgres:
            self._inserting = thread.submit(self._insert, block)
        else:
            self._insert(block)

    def _wait(self) -> None:
        if self._inserting is not None:
            self._inserting.result()

    def _insert(self, block: _Block) -> None:
        with self._engine.begin() as connection:
            for table, rows in block.rows.items():
                if rows:
                    insert_rows(connection, table.__tablename__, _COLUMNS[table], rows)
            if block.keys is not None:
                block.keys.write(connection)


def _row_maker(engine: Engine, table: type[Base]) -> Callable[[dict[str, Any]], _Row]:
    """Return the function that makes a row for the driver, as the types of the columns convert.

    Columns without a value are NULL.
    """
    dialect = engine.dialect
    converters = [
        (column.key, column.type.dialect_impl(dialect).bind_processor(dialect))
        for column in table.__table__.columns
    ]

    def make_row(values: dict[str, Any]) -> _Row:
        row = [(values.get(name), convert) for name, convert in converters]
        return tuple([convert(value) if convert else value for value, convert in row])

    return make_row
