"""The real service, as `python -m worker dev` runs it, with nobody else asking."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text

from tests.support.servers import external
from valetkey import Client
from valetkey.crypto.keys import dump_private_key, generate_key, public_key_line
from worker.devstack.stack import Stack, running_stack

BUCKET = "bench"
WORKERS = 2  # processes
_TENANTS = Path(__file__).parent / "tenants.toml"
_KEY = generate_key("bench/bench")


@contextmanager
def running(database_url: str | None = None) -> Iterator[Stack]:
    """Run everything in a new folder; on SQLite there, unless another database is given.

    The tenant "bench" has a key, and "unsigned" has none.
    """
    environ = dict(os.environ) | {"VALETKEY_CONCURRENCY": str(WORKERS)}
    if database_url is not None:
        environ["VALETKEY_DATABASE_URL"] = database_url
    with tempfile.TemporaryDirectory(prefix="valetkey-bench-") as folder:
        tenants = Path(folder) / "tenants.toml"
        declared = f"{_TENANTS.read_text(encoding='utf-8')}\n[tenants.bench.keys]\n"
        tenants.write_text(declared + public_key_line(_KEY) + "\n", encoding="utf-8")
        with running_stack(Path(folder) / "data", tenants, environ) as up:
            yield up


def client(up: Stack) -> Client:
    """Make a client that signs, and whose answers are sealed, as a program makes it once."""
    running = up.running
    return Client(
        running.broker_url, running.result_url, key=dump_private_key(_KEY), requested_by="bench"
    )


def unsigned(up: Stack) -> Client:
    """Make a client of the tenant that the queue vouches for."""
    running = up.running
    return Client(running.broker_url, running.result_url, "unsigned", requested_by="bench")


def environment(up: Stack) -> dict[str, str]:
    """What a producer of its own sees, to ask as client does."""
    return dict(up.environ) | {"VALETKEY_KEY": dump_private_key(_KEY)}


def settle(up: Stack) -> None:
    """Have PostgreSQL count its rows, as it does by itself within the first minute."""
    url = up.running.database_url
    if url.startswith("postgresql"):
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ANALYZE"))
        engine.dispose()


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL whose commits are on the disk, as those of our SQLite are."""
    with external.running_postgres() as url:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET fsync = on"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield url
