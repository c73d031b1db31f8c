"""The real service, started as `python -m worker dev` starts it, with no other producers."""

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import create_engine, text

from bench.metrics import Measurements
from tests.support.servers import external
from valetkey import AsyncClient, Client
from valetkey.crypto.keys import dump_private_key, generate_key, public_key_line
from worker.dev.stack import Stack, running_stack

BUCKET = "bench"
HOOK = "hook"
WORKERS = 2  # processes
_TENANTS = Path(__file__).parent / "tenants.toml"
_KEY = generate_key("bench/bench")


class Hook(NamedTuple):
    """A webhook endpoint on this machine, and its secret."""

    url: str
    secret: str


@contextmanager
def running_service(
    database_url: str | None = None, *, hook: Hook | None = None, workers: int = WORKERS
) -> Iterator[Stack]:
    """Run the service in a new folder, with SQLite in that folder unless a database is given.

    `workers` is the number of issuing processes.

    The tenant "bench" has a key, and the endpoint if there is one; the tenant "unsigned" has none.
    """
    environ = dict(os.environ) | {"VALETKEY_CONCURRENCY": str(workers)}
    settings = {} if database_url is None else {"VALETKEY_DATABASE_URL": database_url}
    with tempfile.TemporaryDirectory(prefix="valetkey-bench-") as folder:
        tenants = Path(folder) / "tenants.toml"
        config = f"{_TENANTS.read_text(encoding='utf-8')}\n[tenants.bench.keys]\n"
        config += public_key_line(_KEY) + "\n"
        if hook is not None:
            environ["BENCH_SECRET"] = hook.secret
            config += f'[tenants.bench.endpoints.{HOOK}]\nurl = "{hook.url}"\n'
            config += 'secret = "env:BENCH_SECRET"\n'
        tenants.write_text(config, encoding="utf-8")
        with running_stack(Path(folder) / "data", tenants, environ, settings=settings) as stack:
            yield stack


def signing_client(stack: Stack) -> Client:
    """Return a client that signs requests and receives sealed results."""
    info = stack.info
    return Client(
        info.broker_url, info.result_url, key=dump_private_key(_KEY), requested_by="bench"
    )


def async_client(stack: Stack) -> AsyncClient:
    """Return a client for asyncio that signs as signing_client does."""
    info = stack.info
    return AsyncClient(
        info.broker_url, info.result_url, key=dump_private_key(_KEY), requested_by="bench"
    )


def unsigned_client(stack: Stack) -> Client:
    """Return a client of the tenant that accepts unsigned messages."""
    info = stack.info
    return Client(info.broker_url, info.result_url, "unsigned", requested_by="bench")


def producer_environment(stack: Stack) -> dict[str, str]:
    """Return the environment of a producer process whose client signs as signing_client does."""
    return dict(stack.environ) | {"VALETKEY_KEY": dump_private_key(_KEY)}


def analyze_tables(stack: Stack) -> None:
    """Update PostgreSQL's statistics now, as its autovacuum does within the first minute."""
    url = stack.info.database_url
    if url.startswith("postgresql"):
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ANALYZE"))
        engine.dispose()


def measure_on_both(measure: Callable[[str | None], Measurements]) -> Measurements:
    """Measure with SQLite, which has no URL, then with PostgreSQL, whose names end so."""
    sqlite = measure(None)
    with durable_postgres() as url:
        postgres = measure(url)
    return sqlite | {f"{name}_postgres": value for name, value in postgres.items()}


@contextmanager
def durable_postgres() -> Iterator[str]:
    """Run a PostgreSQL that flushes each commit to disk, as the service's SQLite does."""
    with external.running_postgres() as url:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET fsync = on"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield url
