"""rediss:// URLs: the server is verified, or nothing is sent."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import ROOT
from tests.acceptance.production.conftest import (
    HOST_NAME,
    PRODUCER,
    Production,
    ProductionRedis,
    password_of,
)
from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.programs import run_worker, worker_environ
from tests.support.servers.proxies import TlsProxy, running_tls_proxy
from tests.support.servers.waiting import wait_until
from valetkey import AsyncClient, BrokerUnreachable, Client
from worker.dev.child_processes import Program, running

UNKNOWN_AUTHORITY = "certificate verify failed: (unable to get local issuer|self-signed)"
WRONG_NAME = (
    "certificate verify failed: Hostname mismatch, certificate is not valid for 'localhost'"
)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


@dataclass(frozen=True)
class Impostor:
    """A server that a client must not talk to, though it forwards to the right one."""

    proxy: TlsProxy
    parameters: str
    problem: str

    def url(self, user: str, database: int = 0) -> str:
        login = f"{user}:{password_of(user)}@{HOST_NAME}:{self.proxy.port}"
        return f"rediss://{login}/{database}{self.parameters}"


@pytest.fixture(params=["unknown authority", "wrong name"])
def impostor(
    request: pytest.FixtureRequest,
    authority: CertificateAuthority,
    production_redis: ProductionRedis,
) -> Iterator[Impostor]:
    is_unknown = request.param == "unknown authority"
    context = authority.server_context(HOST_NAME if is_unknown else "redis.example.com")
    with running_tls_proxy(context, production_redis.port) as proxy:
        parameters = "" if is_unknown else f"?ssl_ca_certs={authority.file}"
        yield Impostor(proxy, parameters, UNKNOWN_AUTHORITY if is_unknown else WRONG_NAME)


def download(broker: str, results: str) -> None:
    with Client(broker, results, tenant="acme") as client:
        assert client.download("demo", "acme/a").result().key == "acme/a"


def download_in_event_loop(broker: str, results: str) -> None:
    async def download() -> None:
        async with AsyncClient(broker, results, tenant="acme") as client:
            await client.download("demo", "acme/a").result(timeout=10)

    asyncio.run(download())


@pytest.mark.parametrize("server", ["broker", "result store"])
@pytest.mark.parametrize("use", [download, download_in_event_loop])
def test_a_client_sends_an_impostor_no_password_and_no_request(
    impostor: Impostor, production_redis: ProductionRedis, server: str, use: Callable[..., None]
) -> None:
    login = f"{PRODUCER}:{password_of(PRODUCER)}@127.0.0.1:{production_redis.port}"
    urls = [f"redis://{login}/{database}" for database in (0, 1)]
    database = ("broker", "result store").index(server)
    urls[database] = impostor.url(PRODUCER, database)
    with pytest.raises(BrokerUnreachable, match=f"cannot use the {server} .*{impostor.problem}"):
        use(*urls)
    assert impostor.proxy.failures
    assert impostor.proxy.received == 0


def environ_of(tmp_path: Path, broker: str, results: str) -> dict[str, str]:
    database = f"sqlite:///{tmp_path / 'valetkey.db'}"
    return worker_environ(broker, results, VALETKEY_DATABASE_URL=database)


def run_doctor(environ: dict[str, str]) -> dict[str, dict[str, Any]]:
    lines = run_worker("doctor", "--json", cwd=ROOT, env=environ).stdout.splitlines()
    checks = map(json.loads, lines)
    return {check["check"]: check for check in checks}


def test_doctor_names_the_problem_of_an_impostor(impostor: Impostor, tmp_path: Path) -> None:
    urls = impostor.url("operator"), impostor.url("operator", 1)
    checks = run_doctor(environ_of(tmp_path, *urls))
    for check in ("broker", "results"):
        assert checks[check]["state"] == "fail"
        assert "certificate verify failed" in checks[check]["message"]
    assert impostor.proxy.received == 0


def test_doctor_reaches_both_servers_over_tls(production: Production, tmp_path: Path) -> None:
    checks = run_doctor(environ_of(tmp_path, *production.urls("operator")))
    assert [checks[name]["state"] for name in ("broker", "results")] == ["ok", "ok"]


def test_a_worker_takes_no_messages_from_an_impostor(impostor: Impostor, tmp_path: Path) -> None:
    environ = environ_of(tmp_path, impostor.url("worker"), impostor.url("worker", 1))
    command = (sys.executable, "-m", "worker", "run", "--only", "issue")
    program = Program("worker", command, ROOT, tmp_path / "worker.log", environ)
    with running(program, lambda _: True, stop_timeout=0) as worker:
        wait_until(lambda: "certificate verify failed" in worker.log.read_text())
        assert password_of("worker") not in worker.log.read_text()
    assert impostor.proxy.received == 0


def test_a_url_without_parameters_trusts_the_authorities_of_the_system(
    production: Production, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(production.authority.file))
    download(*(url.partition("?")[0] for url in production.urls()))


@pytest.mark.parametrize("parameter", ["ssl_cert_reqs", "ssl_check_hostname"])
def test_a_server_is_not_verified_if_the_url_says_so(
    authority: CertificateAuthority, production: Production, parameter: str
) -> None:
    parameters = {
        "ssl_cert_reqs": "ssl_cert_reqs=none",
        "ssl_check_hostname": f"ssl_check_hostname=false&ssl_ca_certs={authority.file}",
    }
    context = authority.server_context("redis.example.com")
    with running_tls_proxy(context, production.redis.port) as proxy:
        server = Impostor(proxy, f"?{parameters[parameter]}", problem="")
        download(server.url(PRODUCER), server.url(PRODUCER, 1))
