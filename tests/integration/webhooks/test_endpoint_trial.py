"""`webhooks test`: sends a signed test as deliveries are sent, and says each step of it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address

import pytest
from click.testing import CliRunner, Result
from sqlalchemy import Engine, insert

from models import Base, EndpointState
from tests.integration.conftest import ApplyConfig
from tests.support.builders.delivery_service import SECRET
from tests.support.builders.messages import tenant_config
from tests.support.cli.groups import webhooks
from tests.support.cli.operator import ON_SQLITE, json_lines, refusal
from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.webhook_receiver import (
    FakeResolver,
    Responder,
    WebhookReceiver,
    respond_with,
    running_receiver,
)
from valetkey.webhooks import unwrap
from worker.base.database_engine import read_transaction, write_transaction
from worker.rules.tenant_config import Tenant, WebhookEndpoint
from worker.webhooks.commands.endpoint_trial import try_endpoint
from worker.webhooks.webhook_client import WebhookClient

PATH = "/in?token=path-secret"
HOST = "hooks.example.com"
pytestmark = ON_SQLITE


def respond_with_text(text: bytes, status: int = 200) -> Responder:
    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(text)))
        handler.end_headers()
        handler.wfile.write(text)

    return respond


@pytest.fixture
def responder() -> Responder:
    return respond_with(204)


@pytest.fixture
def receiver(
    responder: Responder, apply_config: ApplyConfig, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WebhookReceiver]:
    """The endpoint `hook` of acme, whose other endpoints cannot be reached."""
    monkeypatch.setenv("HOOK", SECRET)
    monkeypatch.setenv("VALETKEY_DEVELOPMENT", "true")
    with running_receiver(responder) as running:
        urls = {
            "hook": f"http://127.0.0.1:{running.port}{PATH}",
            "closed": f"http://127.0.0.1:1{PATH}",
            "metadata": f"http://169.254.169.254{PATH}",
            "unknown": f"http://unknown.invalid{PATH}",
            "other": f"ftp://127.0.0.1{PATH}",
        }
        endpoints = {name: WebhookEndpoint(name, url, "env:HOOK") for name, url in urls.items()}
        endpoints["unsigned"] = WebhookEndpoint("unsigned", urls["hook"], "env:MISSING")
        apply_config(tenant_config(endpoints=endpoints))
        yield running


def run(*words: str) -> Result:
    result = CliRunner().invoke(webhooks, ["test", *words], prog_name="python -m worker webhooks")
    assert "path-secret" not in result.output
    assert SECRET.removeprefix("whsec_") not in result.output
    return result


def test_a_signed_test_arrives_and_each_step_is_printed(receiver: WebhookReceiver) -> None:
    result = run("acme/hook")
    assert result.exit_code == 0, result.output
    lines = [line.split(maxsplit=1) for line in result.output.splitlines()]
    *steps, (_, verdict) = lines
    assert [name for name, _ in steps] == [
        "signature", "url", "dns", "address", "connect", "response",
    ]  # fmt: skip
    details = dict(steps)
    assert details["address"] == "127.0.0.1: allowed (loopback, in development)"
    assert details["response"].startswith("status 204 (")
    assert verdict.startswith("took the webhook in ")
    (body,), (headers,) = receiver.bodies, receiver.headers
    event = unwrap(body, headers, SECRET)
    assert (event.type, json.loads(body)["data"]) == (
        "endpoint.test",
        {"tenant": "acme", "endpoint": "hook"},
    )
    assert receiver.paths == [PATH]


def test_the_steps_are_printed_as_json(receiver: WebhookReceiver) -> None:
    (values,) = json_lines(run("acme/hook", "--json"))
    names = [step["name"] for step in values.pop("steps")]
    assert names == ["signature", "url", "dns", "address", "connect", "response"]
    assert values.pop("seconds") >= 0
    assert values == {
        "tenant": "acme", "endpoint": "hook", "success": True, "status": 204, "body": "",
        "problem": None,
    }  # fmt: skip
    assert len(receiver.bodies) == 1


BODY = b"\x1b[31mno\n\xff whsec_" + b"A" * 43 + b"="


@pytest.mark.usefixtures("receiver")
@pytest.mark.parametrize("responder", [respond_with_text(BODY, 500)], ids=["500"])
def test_the_start_of_a_response_is_printed_escaped_and_without_secrets() -> None:
    result = run("acme/hook")
    assert result.exit_code == 1
    assert "\nbody       \\x1b[31mno\\n\\xff " in result.output
    assert "A" * 43 not in result.output
    assert "acme/hook did not take the webhook: the endpoint responded with 500" in result.output


@pytest.mark.usefixtures("receiver")
@pytest.mark.parametrize("responder", [respond_with(302, Location="http://10.0.0.1/")])
def test_a_redirect_is_not_followed() -> None:
    result = run("acme/hook")
    assert (result.exit_code, "responded with 302" in result.output) == (1, True)
    assert "10.0.0.1" not in result.output


PROBLEMS = {
    "closed": ["connect", "connection_failed: no connection to 127.0.0.1:1"],
    "metadata": ["169.254.169.254: denied (link-local", "address_denied: 169.254.169.254"],
    "unknown": ["dns_failed: unknown.invalid does not resolve"],
    "other": ["url        refused: ", "url_refused: "],
    "unsigned": ["env:MISSING is not set"],
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_what_keeps_a_test_from_arriving_is_said(receiver: WebhookReceiver, name: str) -> None:
    result = run(f"acme/{name}")
    assert result.exit_code == 1
    assert [words for words in PROBLEMS[name] if words not in result.output] == []
    (values,) = json_lines(run(f"acme/{name}", "--json"))
    assert (values["success"], values["status"]) == (False, None)
    assert PROBLEMS[name][-1] in values["problem"]
    assert receiver.bodies == []


@pytest.mark.usefixtures("receiver")
def test_an_unknown_endpoint_is_refused() -> None:
    assert "did you mean 'acme/hook'" in refusal(run("acme/hok"))


def test_nothing_is_stored_and_a_disabled_endpoint_is_tried_and_stays_disabled(
    receiver: WebhookReceiver, engine: Engine
) -> None:
    state = {"tenant": "acme", "endpoint": "hook", "failures": 0}
    with write_transaction(engine) as connection:
        disabled_at = datetime(2026, 11, 24, tzinfo=UTC)
        connection.execute(insert(EndpointState), state | {"disabled_at": disabled_at})
    before = dump(engine)
    result = run("acme/hook")
    assert (result.exit_code, len(receiver.bodies)) == (0, 1)
    assert "python -m worker webhooks enable acme/hook" in result.stderr
    assert dump(engine) == before


def dump(engine: Engine) -> dict[str, list[tuple[object, ...]]]:
    with read_transaction(engine) as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(table.select())]
            for table in Base.metadata.sorted_tables
        }


@pytest.mark.usefixtures("engine")
def test_the_version_of_tls_and_the_name_of_the_certificate_are_a_step(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    authority = CertificateAuthority(tmp_path_factory.mktemp("authority"))
    resolver = FakeResolver([ip_address("127.0.0.1")])
    client = WebhookClient(development=True, resolve=resolver, ssl_context=authority.client_context)
    with running_receiver(respond_with(204), authority.server_context(HOST)) as receiver:
        endpoint = WebhookEndpoint("hook", f"https://{HOST}:{receiver.port}{PATH}", "env:HOOK")
        trial = try_endpoint(Tenant("acme"), endpoint, client, {"HOOK": SECRET}, datetime.now(UTC))
    (tls,) = [detail for name, detail, _ in trial.steps if name == "tls"]
    assert tls.startswith("TLSv1.3")
    assert trial.success
