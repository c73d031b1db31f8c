"""The processes that the webhooks of a benchmark go through, each with CPU of its own."""

import base64
import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine

from bench.processes import cpu_time
from tests.support.builders.messages import POLICY, tenant_config
from tests.support.servers.certificates import CertificateAuthority
from worker import clock
from worker.base.database_engine import create_database_engine, write_transaction
from worker.cli.database import migrate_to_head
from worker.dev.child_processes import Program, running
from worker.dev.embedded_servers import running_valkey
from worker.ledger.tenant_rows import load_config, store_config
from worker.rules.tenant_config import TenantConfig, WebhookEndpoint

_ROOT = Path(__file__).parents[2]
_SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()

Endpoint = tuple[str, str]
"""A tenant and the name of one of its endpoints."""


class Conversation:
    """A process that answers each line of JSON with another one."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def ask(self, question: object) -> Any:
        """Send a line, and return the answer."""
        print(json.dumps(question), file=self._process.stdin, flush=True)
        return self.read()

    def read(self) -> Any:
        """Return the next answer."""
        if self._process.stdout is None:
            raise RuntimeError("the process has no pipe")
        return json.loads(self._process.stdout.readline())


class WebhookService(NamedTuple):
    """The running service: its database, what issues, delivers and receives.

    tls trusts the receivers. urls are those of the endpoints by tenant and name.
    """

    engine: Engine
    issuer: Conversation
    receiver: Conversation
    upkeep_pid: int
    tls: ssl.SSLContext
    urls: dict[Endpoint, str]

    def delivery_cpu(self) -> float:
        """Return the CPU seconds that the upkeep worker has used."""
        return cpu_time(self.upkeep_pid).own


@contextmanager
def running_service(
    database_url: str | None, delays: dict[Endpoint, float | None]
) -> Iterator[WebhookService]:
    """Run the service, with SQLite unless a database is given, and an HTTPS port for each endpoint.

    delays are the seconds after which endpoints respond; None is a port that refuses connections.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="valetkey-bench-")))
        url = database_url or f"sqlite:///{folder}/data/valetkey.db"
        migrate_to_head(url)
        engine = create_database_engine(url)
        stack.callback(engine.dispose)
        authority = CertificateAuthority(folder)
        authority.server_context("localhost")
        receiver, urls = stack.enter_context(_receiver(folder / "localhost.pem", delays))
        _store_endpoints(engine, urls)
        broker = stack.enter_context(running_valkey(folder))
        environ = dict(os.environ) | {
            "AWS_ACCESS_KEY_ID": "BENCH",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "BENCH_SECRET": _SECRET,
            "VALETKEY_BROKER_URL": broker.url(0),
            "VALETKEY_DATABASE_URL": url,
            "VALETKEY_DEVELOPMENT": "true",
            "VALETKEY_RESULT_URL": broker.url(1),
        }
        issuer = stack.enter_context(_conversation("bench.webhooks.issuer", env=environ))
        command = (sys.executable, "-m", "bench.webhooks.upkeep", str(authority.file))
        program = Program("upkeep", command, _ROOT, folder / "upkeep.log", environ)
        upkeep = stack.enter_context(running(program, lambda _: True))
        yield WebhookService(engine, issuer, receiver, upkeep.pid, authority.client_context, urls)


def _store_endpoints(engine: Engine, urls: dict[Endpoint, str]) -> None:
    bare = tenant_config(policies={"demo": POLICY})
    tenants = {}
    for tenant in sorted({tenant for tenant, _ in urls}):
        endpoints = {
            name: WebhookEndpoint(name, url, "env:BENCH_SECRET", ("grants.decided",))
            for (owner, name), url in urls.items()
            if owner == tenant
        }
        tenants[tenant] = replace(bare.tenants["acme"], name=tenant, endpoints=endpoints)
    with write_transaction(engine) as connection:
        config = TenantConfig(bare.buckets, tenants)
        store_config(connection, load_config(connection), config, clock.now())


@contextmanager
def _receiver(
    certificate: Path, delays: dict[Endpoint, float | None]
) -> Iterator[tuple[Conversation, dict[Endpoint, str]]]:
    open_ports = {key: str(delay) for key, delay in delays.items() if delay is not None}
    with ExitStack() as stack:
        arguments = (str(certificate), *open_ports.values())
        receiver = stack.enter_context(_conversation("bench.webhooks.receiver", *arguments))
        ports = dict(zip(open_ports, receiver.read(), strict=True))
        for key in delays.keys() - ports.keys():
            closed = stack.enter_context(socket.socket())
            closed.bind(("127.0.0.1", 0))  # nobody else listens there
            ports[key] = closed.getsockname()[1]
        yield receiver, {key: f"https://localhost:{ports[key]}/hook" for key in delays}


@contextmanager
def _conversation(module: str, *arguments: str, **options: Any) -> Iterator[Conversation]:
    command, pipe = [sys.executable, "-m", module, *arguments], subprocess.PIPE
    with subprocess.Popen(
        command, cwd=_ROOT, text=True, stdin=pipe, stdout=pipe, **options
    ) as process:
        try:
            yield Conversation(process)
        finally:
            process.terminate()
