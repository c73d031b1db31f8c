"""Meters of a running service: the CPU of its parts, and the work of its database."""

from contextlib import suppress
from typing import NamedTuple, Self

from sqlalchemy import Engine, text

from bench.processes import cpu_time, family, list_processes, pool_children
from worker.dev.stack import Stack

_POSTGRES = {
    "commits": "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()",
    # Both in milliseconds: an idle connection in a transaction keeps its locks.
    "busy_ms": "SELECT active_time + idle_in_transaction_time FROM pg_stat_database"
    " WHERE datname = current_database()",
    "bytes": "SELECT pg_database_size(current_database())",
    "wal_bytes": "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')",
    "fsyncs": "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'",
}
_SQLITE = {"bytes": "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"}


class Cpu(NamedTuple):
    """The CPU seconds of the service's parts: the children of the pool, and those around them."""

    workers: float
    readers: float
    redis: float
    database: float

    def since(self, before: Self) -> Self:
        """Return what was used since an earlier reading."""
        return type(self)(*(now - then for now, then in zip(self, before, strict=True)))


class CpuMeter:
    """Reads the CPU of a stack's parts. SQLite's is a part of the workers'."""

    def __init__(self, stack: Stack, engine: Engine) -> None:
        self._worker, self._redis = (stack.info.pids[name] for name in ("worker", "valkey"))
        self._postgres = _postmaster(engine) if engine.dialect.name == "postgresql" else None

    def read(self) -> Cpu:
        """Return the CPU used since the parts started."""
        while True:
            # A process may end between the list and its turn: then its parent has its CPU.
            with suppress(FileNotFoundError, ProcessLookupError):
                return self._read()

    def _read(self) -> Cpu:
        table = list_processes()
        pool = {process.pid for process in pool_children(table, self._worker)}
        readers = [p.pid for p in family(table, self._worker) if p.pid not in pool]
        times = [cpu_time(pid) for pid in readers]
        # The children that ended were of the pool, which replaces them after so many tasks.
        workers = sum(cpu_time(pid).own for pid in pool) + sum(t.ended_children for t in times)
        postgres = family(table, self._postgres) if self._postgres else ()
        return Cpu(
            workers,
            sum(time.own for time in times),
            cpu_time(self._redis).own,
            sum(sum(cpu_time(process.pid)) for process in postgres),
        )


def read_database(engine: Engine) -> dict[str, float]:
    """Return the counters of a database, of which SQLite has only its size."""
    queries = _POSTGRES if engine.dialect.name == "postgresql" else _SQLITE
    with engine.connect() as connection:
        return {name: float(connection.scalar(text(query)) or 0) for name, query in queries.items()}


def connections(engine: Engine) -> int:
    """Return the connections to a PostgreSQL database, without this one; 0 for SQLite."""
    if engine.dialect.name != "postgresql":
        return 0
    query = "SELECT count(*) - 1 FROM pg_stat_activity WHERE datname = current_database()"
    with engine.connect() as connection:
        return int(connection.scalar(text(query)) or 0)


def _postmaster(engine: Engine) -> int:
    with engine.connect() as connection:
        backend = connection.scalar(text("SELECT pg_backend_pid()"))
    return next(process.parent for process in list_processes() if process.pid == backend)
