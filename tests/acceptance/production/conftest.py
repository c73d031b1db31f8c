import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.acceptance.conftest import ACME_KEY, ROOT
from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.programs import run_worker, worker_environ
from tests.support.servers.proxies import running_tls_proxy
from tests.support.servers.waiting import wait_until
from valetkey.crypto.keys import dump_private_key, public_key_line
from worker.dev.child_processes import HOST, ChildProcess, Program, reserved_ports, running
from worker.dev.embedded_servers import find_valkey

HOST_NAME = "localhost"
PRODUCER = "producer-acme"


_EXAMPLES = Path(__file__).parents[3] / "examples" / "production"
_PLACEHOLDER = re.compile(r"(#SHA256_OF_THE_PASSWORD_OF_([\w-]+))")


def password_of(user: str) -> str:
    return f"password-of-{user}"


@dataclass(frozen=True)
class ProductionRedis:
    """A server with the users of users.acl, without TLS."""

    port: int

    def client(self, user: str, database: int = 0) -> Any:
        """Return a connection as one of the users."""
        login: dict[str, Any] = {"username": user, "password": password_of(user)}
        return redis.Redis(HOST, self.port, database, **login, retry=Retry(NoBackoff(), 0))


@contextmanager
def running_production_redis(data: Path, without_password: str = "") -> Iterator[ProductionRedis]:
    """Run Valkey with redis.conf, except its options for TLS, and with passwords in users.acl.

    The user without_password keeps the placeholder. Raises StartFailed.
    """
    folder = data / "redis"
    folder.mkdir(parents=True)
    text = (_EXAMPLES / "users.acl").read_text(encoding="utf-8")
    for placeholder, user in _PLACEHOLDER.findall(text):
        if user != without_password:
            text = text.replace(placeholder, f"#{sha256(password_of(user).encode()).hexdigest()}")
    (folder / "users.acl").write_text(text)
    with reserved_ports(None) as (port,):
        (folder / "redis.conf").write_text(_local_config(port))
        command, log = (find_valkey(), "redis.conf"), data / "logs" / "redis.log"
        program = Program("Valkey", command, folder, log)
        server = ProductionRedis(port)
        with running(program, partial(_is_ready, server)):
            yield server


def _local_config(port: int) -> str:
    local = {"port": port, "bind": HOST, "dir": ".", "aclfile": "users.acl"}
    lines = (_EXAMPLES / "redis.conf").read_text(encoding="utf-8").splitlines()
    kept = [
        line for line in lines if not line.startswith(("tls-", *(f"{name} " for name in local)))
    ]
    return "\n".join([*kept, *(f"{name} {value}" for name, value in local.items())]) + "\n"


def _is_ready(server: ProductionRedis, child: ChildProcess) -> bool:
    with server.client("admin") as client:
        try:
            return bool(client.info("server")["process_id"] == child.pid)
        except redis.RedisError:
            return False


@dataclass(frozen=True)
class Production:
    """The service, connected over TLS to a Redis server that has the users of users.acl."""

    redis: ProductionRedis
    tls_port: int
    authority: CertificateAuthority
    key_file: Path
    data: Path

    def url(self, user: str = PRODUCER, database: int = 0, **parameters: str) -> str:
        """Return the URL of a user; by default it trusts the authority and verifies the server."""
        query = urlencode(parameters or {"ssl_ca_certs": str(self.authority.file)})
        login = f"{user}:{password_of(user)}"
        return f"rediss://{login}@{HOST_NAME}:{self.tls_port}/{database}?{query}"

    def urls(self, user: str = PRODUCER, **parameters: str) -> tuple[str, str]:
        """Return the URLs of the broker and of the result store."""
        return self.url(user, 0, **parameters), self.url(user, 1, **parameters)


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
        production = Production(server, proxy.port, authority, key_file, data)
        environ = worker_environ(
            *production.urls("worker"),
            VALETKEY_DATABASE_URL=f"sqlite:///{data / 'valetkey.db'}",
            VALETKEY_S3_ENDPOINT="http://127.0.0.1:1",
            VALETKEY_DEVELOPMENT="1",
            AWS_DEFAULT_REGION="us-east-1",
        )
        tenants = data / "tenants.toml"
        example = (ROOT / "examples" / "tenants.toml").read_text()
        tenants.write_text(f"{example}[tenants.acme.keys]\n{public_key_line(ACME_KEY)}\n")
        for words in (("migrate",), ("apply", "--yes", str(tenants))):
            run_worker(*words, env=environ, check=True)
        for role in ("issue", "upkeep"):
            command = (sys.executable, "-m", "worker", "run", "--only", role)
            log = data / "logs" / f"{role}.log"
            program = Program(role, command, ROOT, log, environ)
            stack.enter_context(running(program, lambda _: True, stop_timeout=20))
        with server.client("operator") as client:
            wait_until(
                lambda: sum(each["cmd"] == "brpop" for each in client.client_list()) == 2,
                what="both workers consume",
            )
        yield production
