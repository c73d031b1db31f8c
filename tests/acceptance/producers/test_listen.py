"""`valetkey webhooks listen` beside the real service: what a developer sees, hears and misses."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from tests.acceptance.conftest import VAULT_KEY, Service
from tests.support.cli.listening import VALETKEY, listening
from tests.support.servers.programs import run_program
from tests.support.servers.proxies import open_port
from tests.support.servers.waiting import wait_until
from tests.support.servers.webhook_receiver import (
    WebhookReceiver,
    respond_with,
    running_receiver,
)
from valetkey.webhooks import GrantsDecided, unwrap
from worker.dev.child_processes import reserved_ports

SECRETS = re.compile(r"X-Amz|x-amz|whsec_|http://|https://|eyJ")


@pytest.fixture
def environ(service: Service, tmp_path: Path) -> dict[str, str]:
    return service.producer_environ(tmp_path)


@pytest.fixture
def program() -> Iterator[WebhookReceiver]:
    """The program that a developer writes, on this machine."""
    with running_receiver(respond_with(204)) as receiver:
        yield receiver


def url_of(program: WebhookReceiver) -> str:
    return f"http://127.0.0.1:{program.port}/mine?x=1"


def request(service: Service, key: str = "acme/heard.txt") -> str:
    """Request a download whose outcome is sent to an endpoint; return the batch id."""
    with service.signing_client() as client:
        grant = client.download("demo", key, callback="hook").result()
    return grant.id.partition(".")[0]


def heard_ids(program: WebhookReceiver) -> list[str]:
    return [headers["webhook-id"] for headers in program.headers]


def print_secret(environ: dict[str, str]) -> str:
    command = [VALETKEY, "webhooks", "listen", "--print-secret"]
    return run_program(command, env=environ, check=True).stdout.strip()


def test_events_are_forwarded_as_the_endpoint_receives_them_and_shown_without_links(
    service: Service, environ: dict[str, str], program: WebhookReceiver, tmp_path: Path
) -> None:
    with listening(tmp_path, environ, "--forward-to", url_of(program)) as listen:
        batch = request(service)
        listen.wait_for(f"{batch}-completed")
        assert listen.interrupt() == 130
        decided, completed = listen.lines
    assert re.fullmatch(rf"\d\d:\d\d:\d\d  204 in \d+ ms  grants.decided  {batch}-0", decided)
    assert completed.endswith(f"batch.completed  {batch}-completed")
    assert SECRETS.search(decided + completed + listen.messages) is None
    wait_until(lambda: f"{batch}-0" in heard_ids(service.receiver), what="the endpoint is called")
    at_endpoint = service.receiver.bodies[heard_ids(service.receiver).index(f"{batch}-0")]
    body, headers = program.bodies[0], program.headers[0]
    assert json.loads(body) == json.loads(at_endpoint)
    assert program.paths[0] == "/mine?x=1"
    event = unwrap(body, headers, print_secret(environ))
    assert isinstance(event, GrantsDecided)


def test_a_second_listen_beside_it_hears_the_same_with_the_same_secret(
    service: Service, environ: dict[str, str], program: WebhookReceiver, tmp_path: Path
) -> None:
    forward = ("--forward-to", url_of(program))
    with (
        listening(tmp_path, environ, *forward) as first,
        listening(tmp_path, environ, *forward, name="second") as second,
    ):
        batch = request(service)
        for listen in (first, second):
            listen.wait_for(f"{batch}-0")
    assert heard_ids(program).count(f"{batch}-0") == 2
    secret = print_secret(environ)
    for body, headers in zip(program.bodies, program.headers, strict=True):
        unwrap(body, headers, secret)


def test_only_the_named_types_are_shown_as_json_on_request(
    service: Service, environ: dict[str, str], tmp_path: Path
) -> None:
    options = ("--json", "--events", "batch.completed")
    with listening(tmp_path, environ, *options) as listen:
        batch = request(service)
        listen.wait_for("batch.completed")
        (line,) = [json.loads(line) for line in listen.lines if batch in line]
    assert line.keys() == {"time", "type", "id"}
    assert line["id"] == f"{batch}-completed"


def test_a_program_that_does_not_run_is_named_for_each_event_and_listening_goes_on(
    service: Service, environ: dict[str, str], tmp_path: Path
) -> None:
    with listening(tmp_path, environ, "--forward-to", "http://localhost:1/") as listen:
        first = request(service)
        listen.wait_for(f"{first}-completed")
        second = request(service)
        listen.wait_for(f"{second}-completed")
        assert all("connection refused" in line for line in listen.lines)


def test_no_other_tenant_hears_of_them(service: Service, tmp_path: Path) -> None:
    (tmp_path / "vault").mkdir()
    environ = service.producer_environ(tmp_path / "vault", VAULT_KEY)
    with listening(tmp_path, environ) as listen:
        other = request(service)
        with service.signing_client(VAULT_KEY) as client:
            own = client.download("demo", "vault/a.txt", callback="hook").result()
        listen.wait_for(f"{own.id.partition('.')[0]}-0")
        assert not [line for line in listen.lines if other in line]


def test_a_lost_connection_is_reported_and_comes_back_and_what_was_missed_is_named(
    service: Service, environ: dict[str, str], program: WebhookReceiver, tmp_path: Path
) -> None:
    server = urlsplit(service.stack.info.result_url)
    with reserved_ports(None) as (port,):
        pass
    for name in ("BROKER", "RESULT"):
        url = environ[f"VALETKEY_{name}_URL"]
        environ[f"VALETKEY_{name}_URL"] = url.replace(f":{server.port}", f":{port}")
    assert server.port is not None
    with ExitStack() as proxy, ExitStack() as stack:
        proxy.enter_context(open_port(port, server.port))
        forward = ("--forward-to", url_of(program))
        listen = stack.enter_context(listening(tmp_path, environ, *forward))
        proxy.close()
        disconnect_listeners(service)
        listen.wait_for("connection lost: ")
        missed = request(service)
        wait_until(
            lambda: f"{missed}-completed" in heard_ids(service.receiver),
            what="the endpoint has received what is missed",
        )
        stack.enter_context(open_port(port, server.port))
        listen.wait_for("connected again")
        listen.wait_for(f"grants.decided  {missed}")
        listen.wait_for(f"batch.completed  {missed}")
        heard = request(service)
        listen.wait_for(f"{heard}-completed")
        assert not [line for line in listen.lines if missed in line]
    assert "missed, and not sent again:" in listen.messages
    assert not [name for name in heard_ids(program) if missed in name]


def disconnect_listeners(service: Service) -> None:
    """Close the connections that wait for published messages."""
    with closing(redis.Redis.from_url(service.stack.info.result_url)) as client:
        client.client_kill_filter(_type="pubsub")
