"""The real service on a broker and a database of its own, each part of which tests make fail."""

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import redis
from sqlalchemy import Engine

from tests.support.builders import services
from tests.support.builders.messages import DEMO, POLICY
from tests.support.crypto.tokens import tenant_keys
from tests.support.faults.worker_group import WorkerGroup
from tests.support.servers.databases import migrated_file
from tests.support.servers.external import PostgresServer
from valetkey.crypto.keys import generate_key
from valetkey.wire.messages import BULK_QUEUE, INTERACTIVE_QUEUE
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.base.database_engine import create_database_engine
from worker.core.tenant_config import Quota, Tenant, TenantConfig
from worker.dev.child_processes import reserved_ports
from worker.dev.data_folder import service_environment
from worker.dev.embedded_servers import running_valkey


class Broker:
    """A Valkey server with its data in a folder. It keeps its port when it is restarted."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._port_reservation = ExitStack()
        (self._port,) = self._port_reservation.enter_context(reserved_ports(None))
        self._run = ExitStack()
        self.start()

    def url(self, database: int = 0) -> str:
        """Return the URL of one of its databases."""
        return self._server.url(database)

    def start(self) -> None:
        """Start it, with the data that it had written if it was killed."""
        self._server = self._run.enter_context(running_valkey(self._data, self._port))

    def kill(self) -> None:
        """Kill it; its connections break."""
        os.kill(self._server.child.pid, signal.SIGKILL)
        self._server.child.process.wait()
        self._run.close()

    def close(self) -> None:
        """Stop it."""
        self._run.close()
        self._port_reservation.close()

    def flush(self) -> None:
        """Delete everything: queues, unacknowledged messages and results."""
        with self._connection() as connection:
            connection.flushall()

    def queue_length(self) -> int:
        """Return the number of requests that wait in the queues."""
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
    data: Path, disk: Path | None = None, postgres: tuple[PostgresServer, str] | None = None
) -> Iterator[FaultyService]:
    """Run the service until the block ends.

    postgres is a server, and the URL of a new database with all tables.
    """
    folder = data / "database" if disk is None else disk
    folder.mkdir(exist_ok=True)
    server, url = postgres or (None, migrated_file(folder / "valetkey.db"))
    engine = create_database_engine(url)
    services.build_service(engine, S3Clients(), clock.now).apply(_tenant_config())
    with closing(Broker(data)) as broker:
        environ = service_environment(
            os.environ,
            VALETKEY_BROKER_URL=broker.url(0),
            VALETKEY_RESULT_URL=broker.url(1),
            VALETKEY_DATABASE_URL=url,
            AWS_ACCESS_KEY_ID="AKIDEXAMPLE",
            AWS_SECRET_ACCESS_KEY="not-a-secret",
        )
        with closing(WorkerGroup("worker", data, environ)) as worker:
            worker.start()
            yield FaultyService(data, folder, disk is not None, broker, worker, engine, server)
    engine.dispose()


def _tenant_config() -> TenantConfig:
    """Return a config: acme signs, globex signs and has a quota, queueing trusts the queue."""

    def tenant(name: str, **fields: object) -> Tenant:
        policies = {"demo": replace(POLICY, prefixes=(f"{name}/",))}
        return replace(Tenant(name, policies=policies), **fields)  # type: ignore[arg-type]

    all_tenants = (
        tenant("acme", keys=tenant_keys(ACME_KEY)),
        tenant(
            "globex",
            keys=tenant_keys(GLOBEX_KEY),
            quotas=(Quota("grants", "day", GLOBEX_LIMIT),),
        ),
        tenant("queueing", trust="queue"),
    )
    return TenantConfig({"demo": DEMO}, {each.name: each for each in all_tenants})
