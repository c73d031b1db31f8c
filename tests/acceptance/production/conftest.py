import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.acceptance.conftest import ACME_KEY, ROOT
from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.production_redis import (
    ProductionRedis,
    password_of,
    running_production_redis,
)
from tests.support.servers.tls_proxy import running_tls_proxy
from tests.support.servers.waiting import wait_until
from valetkey.crypto.keys import dump_private_key, public_key_line
from worker.dev.child_processes import Program, running
from worker.dev.data_folder import service_environment
from worker.dev.stack import run_command

HOST_NAME = "localhost"
PRODUCER = "producer-acme"


@dataclass(frozen=True)
class Production:
    """The service, connected over TLS to a Redis server that has the users of users.acl."""

    redis: ProductionRedis
    tls_port: int
    authority: CertificateAuthority
    key_file: Path
    data: Path
    environ: Mapping[str, str] = field(repr=False)

    def url(self, user: str = PRODUCER, database: int = 0, **parameters: str) -> str:
        """Return the URL of a user; by default it trusts the authority and verifies the server."""
        query = urlencode(parameters or {"ssl_ca_certs": str(self.authority.file)})
        login = f"{user}:{password_of(user)}"
        return f"rediss://{login}@{HOST_NAME}:{self.tls_port}/{database}?{query}"

    def urls(self, user: str = PRODUCER, **parameters: str) -> tuple[str, str]:
        """Return the URLs of the broker and of the result store."""
        return self.url(user, 0, **parameters), self.url(user, 1, **parameters)

    @property
    def logs(self) -> str:
        """The text of all log files."""
        return "".join(path.read_text() for path in (self.data / "logs").iterdir())


@pytest.fixture(scope="session")
def production_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProductionRedis]:
    """Valkey with the files of examples/production, which nothing else uses."""
    with running_production_redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def producer(production_redis: ProductionRedis) -> Iterator[Any]:
    with production_redis.client(PRODUCER) as client:
        yield client


@pytest.fixture
def admin(production_redis: ProductionRedis) -> Iterator[Any]:
    with production_redis.client("admin") as client:
        yield client


@pytest.fixture(scope="session")
def production(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Production]:
    data = tmp_path_factory.mktemp("production")
    authority = CertificateAuthority(data)
    with ExitStack() as stack:
        server = stack.enter_context(running_production_redis(data))
        context = authority.server_context(HOST_NAME)
        proxy = stack.enter_context(running_tls_proxy(context, server.port))
        key_file = data / "acme.key"
        key_file.touch(0o600)
        key_file.write_text(dump_private_key(ACME_KEY))
        environ: dict[str, str] = {}
        production = Production(server, proxy.port, authority, key_file, data, environ)
        environ.update(_worker_environ(production))
        run_command((sys.executable, "-m", "worker", "migrate"), environ)
        run_command(
            (sys.executable, "-m", "worker", "apply", "--yes", str(_tenants(data))), environ
        )
        for role in ("issue", "upkeep"):
            command = (sys.executable, "-m", "worker", "run", "--only", role)
            log = data / "logs" / f"{role}.log"
            program = Program(role, command, ROOT, log, environ)
            stack.enter_context(running(program, lambda _: True, stop_timeout=20))
        wait_until(lambda: _consumer_count(server) == 2, what="both workers consume")
        yield production


def _worker_environ(production: Production) -> dict[str, str]:
    broker, results = production.urls("worker")
    return service_environment(
        os.environ,
        VALETKEY_BROKER_URL=broker,
        VALETKEY_RESULT_URL=results,
        VALETKEY_DATABASE_URL=f"sqlite:///{production.data / 'valetkey.db'}",
        VALETKEY_S3_ENDPOINT="http://127.0.0.1:1",
        VALETKEY_DEVELOPMENT="1",
        AWS_ACCESS_KEY_ID="AKIDEXAMPLE",
        AWS_SECRET_ACCESS_KEY="not-a-secret",
        AWS_DEFAULT_REGION="us-east-1",
    )


def _tenants(data: Path) -> Path:
    tenants = data / "tenants.toml"
    example = (ROOT / "examples" / "tenants.toml").read_text()
    tenants.write_text(f"{example}[tenants.acme.keys]\n{public_key_line(ACME_KEY)}\n")
    return tenants


def _consumer_count(server: ProductionRedis) -> int:
    with server.client("operator") as client:
        clients = client.client_list()
    return sum(client["cmd"] == "brpop" for client in clients)
