"""The real service, as `python -m worker dev` runs it, with nobody else asking."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import create_engine, text

from tests import servers
from valetkey import Client
from worker.embedded.stack import Stack, stack

BUCKET = "bench"
WORKERS = 2  # processes
_TENANTS = Path(__file__).parent / "tenants.toml"


@contextmanager
def running(database_url: str | None = None) -> Iterator[Stack]:
    """Run everything in a new folder; on SQLite there, unless another database is given."""
    environ = dict(os.environ) | {"VALETKEY_CONCURRENCY": str(WORKERS)}
    if database_url is not None:
        environ["VALETKEY_DATABASE_URL"] = database_url
    with (
        tempfile.TemporaryDirectory(prefix="valetkey-bench-") as folder,
        stack(Path(folder), _TENANTS, environ) as up,
    ):
        yield up


def client(up: Stack) -> Client:
    """Make a client, as a program makes it once."""
    running = up.running
    return Client(running.broker_url, running.result_url, running.tenant, requested_by="bench")


@contextmanager
def postgres() -> Iterator[str]:
    """Run a PostgreSQL whose commits are on the disk, as those of our SQLite are."""
    with servers.postgres() as url:
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET fsync = on"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield url
