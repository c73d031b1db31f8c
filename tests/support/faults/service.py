"""The real service on a broker and a database of its own, each part of which tests make fail."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import redis
from sqlalchemy import Engine

from tests.support.builders import services
from tests.support.builders.messages import DEMO, POLICY
from tests.support.crypto.tokens import tenant_keys
from tests.support.servers.databases import migrated_databases, migrated_file, open_engine
from tests.support.servers.external import PostgresServer, running_postgres_server
from tests.support.servers.programs import worker_environ
from tests.support.servers.waiting import is_running, wait_until
from valetkey.crypto.keys import generate_key
from valetkey.wire import BULK_QUEUE, INTERACTIVE_QUEUE
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.dev.child_processes import ChildProcess, Program, reserved_ports, running
from worker.dev.embedded_servers import running_valkey
from worker.rules.tenant_config import Quota, Tenant, TenantConfig

_CHECKOUT = Path(__file__).parents[3]
_POLL_SECONDS = 0.1
_STOP_SECONDS = 20.0  # between SIGTERM and SIGKILL, as docs/operating.md advises
_POSTPONED = '"issue_postponed"'


class ProcessInfo(NamedTuple):
    """A process of a group. cpu is the part of its life in which it used a processor, in %."""

    pid: int
    parent: int
    cpu: float


class WorkerGroup:
    """`python -m worker run` and all processes below it, under a process manager.

    The manager starts the worker again if it ends by itself; restarts counts that. forced_stops
    counts the orderly stops that did not end in time, and needed SIGKILL.
    """

    def __init__(self, name: str, data: Path, environ: Mapping[str, str]) -> None:
        self.restarts = 0
        self.forced_stops = 0
        self._log = data / "logs" / f"{name}.log"
        command = (sys.executable, "-m", "worker", "run")
        self._program = Program(name, command, _CHECKOUT, self._log, environ)
        self._stack = ExitStack()
        self._child: ChildProcess | None = None
        self._lock = threading.RLock()  # held while the worker is replaced
        self._is_closed = threading.Event()
        self._manager = threading.Thread(target=self._manage, daemon=True)

    def start(self) -> None:
        """Start it, and the manager with it, without waiting until it consumes messages."""
        with self._lock:
            self._child = self._stack.enter_context(running(self._program, lambda _: True))
        self._manager.start()

    def close(self) -> None:
        """Kill all its processes."""
        self._is_closed.set()
        self._manager.join()
        self._end_group()

    def kill(self) -> None:
        """Kill all its processes, and start it again once none is left."""
        with self._lock:
            self.send(signal.SIGKILL)
            self._replace()

    def stop_orderly(self) -> None:
        """Send SIGTERM to its first process, later SIGKILL to all, and start it again."""
        with self._lock:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.forced_stops += 1
            self._replace()

    def kill_process(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_running(pid), what="the killed process ends")

    def send(self, signal_number: signal.Signals) -> None:
        with self._lock:
            os.killpg(self._process.pid, signal_number)

    def processes(self) -> list[ProcessInfo]:
        """Return its processes, without zombies."""
        command = ["ps", "-A", "-o", "pid=,ppid=,pgid=,pcpu=,stat="]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        words = [line.split() for line in lines.splitlines()]
        return [
            ProcessInfo(int(pid), int(parent), float(cpu))
            for pid, parent, group, cpu, state in words
            if int(group) == self._process.pid and not state.startswith("Z")
        ]

    def working_children(self) -> list[ProcessInfo]:
        """Return the children of Celery's pools, those with the most work first.

        The worker's first process starts the workers; these start their pools' children.
        """
        workers = {each.pid for each in self.processes() if each.parent == self._process.pid}
        children = [process for process in self.processes() if process.parent in workers]
        return sorted(children, key=lambda process: process.cpu, reverse=True)

    @property
    def postponed(self) -> int:
        """The number of requests that it has postponed because something was unreachable."""
        return self.count_in_log(_POSTPONED)

    def count_in_log(self, text: str) -> int:
        """Return how often its log has this text."""
        return self._log.read_text(errors="replace").count(text)

    @property
    def log_size(self) -> int:
        return self._log.stat().st_size

    @property
    def _process(self) -> "subprocess.Popen[bytes]":
        assert self._child is not None
        return self._child.process

    def _manage(self) -> None:
        while not self._is_closed.wait(_POLL_SECONDS):
            with self._lock:
                if self._process.poll() is not None:
                    self.restarts += 1
                    self._replace()

    def _replace(self) -> None:
        self._end_group()
        self._child = self._stack.enter_context(running(self._program, lambda _: True))

    def _end_group(self) -> None:
        """Kill what is left of the group, and wait until nothing is."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        wait_until(lambda: not self.processes(), what="the worker's processes end")
        self._stack.close()


class Broker:
    """A Valkey server with its data in a folder. It keeps its port when it is restarted."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._port_reservation = ExitStack()
        (self._port,) = self._port_reservation.enter_context(reserved_ports(None))
        self._run = ExitStack()
        self.start()

    def url(self, database: int = 0) -> str:
        return self._server.url(database)

    def start(self) -> None:
        """Start it, with the data that it had written if it was killed."""
        self._server = self._run.enter_context(running_valkey(self._data, self._port))

    def kill(self) -> None:
        os.kill(self._server.child.pid, signal.SIGKILL)
        self._server.child.process.wait()
        self._run.close()

    def send(self, signal_number: signal.Signals) -> None:
        os.kill(self._server.child.pid, signal_number)

    def close(self) -> None:
        self._run.close()
        self._port_reservation.close()

    def flush(self) -> None:
        """Delete everything: queues, unacknowledged messages and results."""
        with self._connection() as connection:
            connection.flushall()

    @contextmanager
    def demoted(self) -> Iterator[None]:
        """Let it be a replica without a primary until the block ends."""
        with self._connection() as connection:
            client: Any = connection
            client.execute_command("REPLICAOF", "127.0.0.1", "1")
            try:
                yield
            finally:
                client.execute_command("REPLICAOF", "NO", "ONE")

    def queue_length(self) -> int:
        with self._connection() as connection:
            return int(connection.llen(INTERACTIVE_QUEUE)) + int(connection.llen(BULK_QUEUE))

    def blocked_clients(self) -> int:
        """Return the number of connections that wait for a message."""
        with self._connection() as connection:
            return int(connection.info("clients")["blocked_clients"])

    def held_messages(self) -> str:
        """Return all messages that wait or are not acknowledged, and the keys of all results."""
        with self._connection() as connection:
            waiting = [connection.lrange(name, 0, -1) for name in (INTERACTIVE_QUEUE, BULK_QUEUE)]
            taken = connection.hvals("unacked")
        with redis.Redis.from_url(self.url(1)) as results:
            return repr([waiting, taken, results.keys()])

    @contextmanager
    def _connection(self) -> Iterator["redis.Redis"]:
        with redis.Redis.from_url(self.url()) as connection:
            yield connection


ACME_KEY, GLOBEX_KEY = generate_key("acme/faults"), generate_key("globex/faults")
GLOBEX_LIMIT = 1_000  # grants a day: requests beyond it are refused, also across faults


@dataclass(frozen=True)
class FaultyService:
    """A running service.

    data has the logs and the broker's files, disk the SQLite database. is_mounted is true if disk
    is a small file system; postgres is None on SQLite.
    """

    data: Path
    disk: Path
    is_mounted: bool
    broker: Broker
    worker: WorkerGroup
    engine: Engine
    postgres: PostgresServer | None


@contextmanager
def faulty_service(
    data: Path,
    disk: Path | None = None,
    postgres: tuple[PostgresServer | None, str] | None = None,
    new_broker: Callable[[Path], Any] = Broker,
) -> Iterator[FaultyService]:
    """Run the service until the block ends.

    postgres is a server, if faults need it, and the URL of a new database with all tables.
    new_broker starts a broker, of which a test calls only what that broker has.
    """
    folder = data / "database" if disk is None else disk
    folder.mkdir(exist_ok=True)
    server, url = postgres or (None, migrated_file(folder / "valetkey.db"))
    with open_engine(url) as engine, closing(new_broker(data)) as broker:
        services.build_service(engine, S3Clients(), clock.now).apply(_tenant_config())
        environ = worker_environ(broker.url(0), broker.url(1), VALETKEY_DATABASE_URL=url)
        with closing(WorkerGroup("worker", data, environ)) as worker:
            worker.start()
            yield FaultyService(data, folder, disk is not None, broker, worker, engine, server)


@contextmanager
def service_on_postgres(data: Path) -> Iterator[FaultyService]:
    """Run the service on a PostgreSQL server of its own until the block ends."""
    with (
        running_postgres_server() as server,
        migrated_databases() as new_database,
        new_database(server.url)() as url,
        faulty_service(data, postgres=(server, url)) as service,
    ):
        yield service


def _tenant_config() -> TenantConfig:
    """Return a config: acme signs, globex signs and has a quota, queueing trusts the queue."""

    def tenant(name: str, **fields: object) -> Tenant:
        policies = {"demo": replace(POLICY, prefixes=(f"{name}/",))}
        return replace(Tenant(name, policies=policies), **fields)  # type: ignore[arg-type]

    all_tenants = (
        tenant("acme", keys=tenant_keys(ACME_KEY)),
        tenant(
            "globex", keys=tenant_keys(GLOBEX_KEY), quotas=(Quota("grants", "day", GLOBEX_LIMIT),)
        ),
        tenant("queueing", trust="queue"),
    )
    return TenantConfig({"demo": DEMO}, {each.name: each for each in all_tenants})
