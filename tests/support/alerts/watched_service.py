"""The real service with `metrics --listen`, a Prometheus, and all that a test makes fail."""

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from subprocess import Popen
from threading import Event, Thread
from typing import Any
from unittest.mock import patch

import redis
from sqlalchemy import Engine, make_url, text

from tests.support.alerts.prometheus_server import Prometheus, running_prometheus
from tests.support.builders import services
from tests.support.builders.delivery_service import SECRET
from tests.support.builders.messages import DEMO, POLICY
from tests.support.builders.services import InProcessService
from tests.support.cli.scraping import serving
from tests.support.crypto.tokens import tenant_keys
from tests.support.faults.service import ACME_KEY, Broker, WorkerGroup
from tests.support.servers.databases import execute_statements, open_engine, url_text
from tests.support.servers.external import PostgresServer
from tests.support.servers.programs import run_worker, worker_environ
from tests.support.servers.waiting import wait_until
from tests.support.servers.webhook_receiver import WebhookReceiver, respond_with, running_receiver
from tools.dashboard_picture import TimeRange, draw, prometheus
from valetkey import Client
from valetkey.errors import ValetkeyError
from worker import clock
from worker.aws.s3_clients import S3Clients
from worker.rules.tenant_config import Quota, Tenant, TenantConfig, WebhookEndpoint

SKEWED_CLOCK = Path(__file__).parents[1] / "skewed_clock"
WORKER_ROLE = "alert_worker"
_METHOD = "scram-sha-256"


@dataclass(frozen=True)
class WatchedService:
    """A running service. engine connects as the owner of the database, workers as another role.

    skew is the file with the seconds by which the clock of workers is ahead. disk is the small file
    system of the database, if it is SQLite and one could be mounted; postgres is None on SQLite.
    """

    data: Path
    skew: Path
    broker: Broker
    worker: WorkerGroup
    engine: Engine
    receiver: WebhookReceiver
    metrics: "Popen[str]"
    environ: dict[str, str]
    prometheus: Prometheus
    disk: Path | None
    postgres: PostgresServer | None
    outages: list[tuple[float, float, str]] = field(default_factory=list)
    """The faults that were injected: beginnings and ends in Unix time, and names."""

    @property
    def service(self) -> InProcessService:
        """The service in this process, on the same database."""
        return services.build_service(self.engine, S3Clients(), clock.now)

    def execute(self, *statements: str) -> None:
        """Execute statements in the database, as its owner, outside of transactions."""
        execute_statements(self.engine.url, *statements)

    def command(self, *words: str) -> None:
        """Run a command of the operator."""
        completed = run_worker(*words, env=self.environ)
        assert completed.returncode == 0, completed.stdout + completed.stderr

    @contextmanager
    def redis(self, database: int = 0) -> Iterator[Any]:
        with redis.Redis.from_url(self.broker.url(database)) as client:
            yield client


@contextmanager
def drawn_dashboard(service: WatchedService, picture: str) -> Iterator[None]:
    """Request downloads all the time; at the end, draw the dashboard of that time into a file."""
    is_over, began = Event(), time.time()

    def request() -> None:
        with Client(service.broker.url(0), service.broker.url(1), "acme") as client:
            while not is_over.wait(0.2):
                with suppress(ValetkeyError):
                    client.download("demo", "acme/a.pdf").result(10)

    thread = Thread(target=request, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        times = TimeRange(began, time.time(), service.outages)
        query = prometheus(service.prometheus.url, times)
        Path(picture).write_text(draw(query, times, "valetkey: faults under a real Prometheus"))


@contextmanager
def watched_service(
    data: Path,
    url: str,
    worker_url: str,
    disk: Path | None = None,
    postgres: PostgresServer | None = None,
) -> Iterator[WatchedService]:
    """Run the service on a database with all tables; start the block when no alert fires."""
    skew = data / "skew"
    skew.write_text("0")
    with (
        running_receiver(respond_with(204)) as receiver,
        open_engine(url) as engine,
        closing(Broker(data)) as broker,
    ):
        services.build_service(engine, S3Clients(), clock.now).apply(_config(receiver.port))
        urls = broker.url(0), broker.url(1)
        changes = {"VALETKEY_DEVELOPMENT": "true", "VALETKEY_SWEEP_SECONDS": "0.5", "HOOK": SECRET}
        environ = worker_environ(*urls, VALETKEY_DATABASE_URL=url, **changes)
        skewed = {"PYTHONPATH": str(SKEWED_CLOCK), "VALETKEY_TEST_SKEW_FILE": str(skew)}
        worker_settings = environ | skewed | {"VALETKEY_DATABASE_URL": worker_url}
        with (
            closing(WorkerGroup("worker", data, worker_settings)) as worker,
            patch.dict(os.environ, environ),  # tests issue grants in this process as well
        ):
            worker.start()
            wait_until(lambda: broker.blocked_clients() > 1, 60, "both workers consume messages")
            with (
                serving(**environ) as (metrics, metrics_url),
                running_prometheus(data, metrics_url) as prometheus,
            ):
                parts = (skew, broker, worker, engine, receiver, metrics, environ, prometheus)
                wait_until(prometheus.is_quiet, 60, "no alert fires")
                yield WatchedService(data, *parts, disk, postgres)


def _config(port: int) -> TenantConfig:
    """Return a config: acme has an endpoint, globex a quota, and vault signs."""
    hook = WebhookEndpoint("hook", f"http://127.0.0.1:{port}/", "env:HOOK", ("grants.decided",))
    policies = {"demo": replace(POLICY, shared=True)}
    acme = Tenant("acme", "queue", policies=policies)
    all_tenants = (
        replace(acme, endpoints={"hook": hook}),
        replace(acme, name="globex", quotas=(Quota("grants", "day", 100),)),
        replace(acme, name="vault", trust="keys", keys=tenant_keys(ACME_KEY)),
    )
    return TenantConfig({"demo": DEMO}, {each.name: each for each in all_tenants})


def create_worker_role(url: str) -> str:
    """Create a role of PostgreSQL for workers that needs a password; return the URL with it."""
    admin = make_url(url)
    with open_engine(url) as engine, engine.connect() as connection:
        path = Path(str(connection.execute(text("SHOW hba_file")).scalar()))
    rules = f"local all {WORKER_ROLE} {_METHOD}\nhost all {WORKER_ROLE} 127.0.0.1/32 {_METHOD}\n"
    path.write_text(rules + path.read_text())
    password = f"{WORKER_ROLE}-password"
    execute_statements(
        admin, f"CREATE ROLE {WORKER_ROLE} LOGIN PASSWORD '{password}'", "SELECT pg_reload_conf()"
    )
    environ = os.environ | {"VALETKEY_DATABASE_URL": url}
    granted = run_worker("migrate", "--grant-to", WORKER_ROLE, env=environ)
    assert granted.returncode == 0, granted.stderr
    return url_text(admin.set(username=WORKER_ROLE, password=password))
