"""`valetkey webhooks` without a service: examples, the secret, and what is wrong to ask for."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.support.crypto.tenants import ACME_KEY, ACME_SPARE_KEY
from tests.support.servers.webhook_receiver import (
    WebhookReceiver,
    respond_with,
    running_receiver,
    send_bytes,
    silent_endpoint,
    stream_body,
)
from tools.terminal import run_in_terminal
from valetkey.cli import forwarding
from valetkey.cli.main import main
from valetkey.crypto.keys import dump_private_key
from valetkey.webhooks import unwrap
from valetkey.wire.events import EVENT_TYPES


@pytest.fixture(autouse=True)
def _configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("VALETKEY_BROKER_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("VALETKEY_KEY", dump_private_key(ACME_KEY))


@pytest.fixture
def program() -> Iterator[WebhookReceiver]:
    with running_receiver(respond_with(204)) as receiver:
        yield receiver


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}/mine"


def run_webhooks(*words: str) -> Result:
    return CliRunner().invoke(main, ("webhooks", *words))


def secret() -> str:
    result = run_webhooks("listen", "--print-secret")
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout.removesuffix("\n")


@pytest.mark.parametrize("event_type", EVENT_TYPES)
def test_an_example_of_each_type_is_posted_signed_with_the_secret(
    program: WebhookReceiver, event_type: str
) -> None:
    result = run_webhooks("trigger", event_type, "--forward-to", url_of(program.port))
    assert result.exit_code == 0, result.output
    event = unwrap(program.bodies[0], program.headers[0], secret())
    assert event.type == event_type
    assert event.data.tenant == "acme"  # type: ignore[union-attr]  # of a known type
    assert f"  {event_type}  {event.id}\n" in result.stdout
    assert "X-Amz" not in result.stdout


def test_a_narrow_terminal_gets_lines_that_fit_and_a_pipe_gets_one(
    program: WebhookReceiver,
) -> None:
    words = ("trigger", "upload.mismatched", "--forward-to", url_of(program.port))
    command = [str(Path(sys.executable).with_name("valetkey")), "webhooks", *words]
    environ = dict(os.environ) | {"COLUMNS": "60"}
    folded = [line for line in run_in_terminal(command, environ, columns=60) if line]
    assert max(map(len, folded)) <= 60
    assert len(folded) == 2
    assert len(run_webhooks(*words).stdout.splitlines()) == 1


def test_the_url_can_be_in_the_environment(
    program: WebhookReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VALETKEY_FORWARD_TO", url_of(program.port))
    (line,) = run_webhooks("trigger", "endpoint.test", "--json").stdout.splitlines()
    assert json.loads(line)["status"] == 204
    assert program.paths == ["/mine"]


def test_the_secret_is_that_of_the_key_and_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = secret()
    assert secret() == first
    monkeypatch.setenv("VALETKEY_KEY", dump_private_key(ACME_SPARE_KEY))
    assert secret() != first


def test_a_redirect_is_a_failure_and_not_followed(program: WebhookReceiver) -> None:
    with running_receiver(respond_with(307, Location=url_of(program.port))) as redirecting:
        result = run_webhooks("trigger", "endpoint.test", "--forward-to", url_of(redirecting.port))
    assert result.exit_code == 1
    assert "307 in " in result.stdout
    assert program.paths == []


def test_a_program_that_does_not_respond_in_time_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "TIMEOUT_SECONDS", 0.2)
    with silent_endpoint() as silent:
        port = silent.getsockname()[1]
        result = run_webhooks("trigger", "endpoint.test", "--forward-to", url_of(port))
    assert (result.exit_code, result.stdout) == (3, "")
    assert f"no response from 127.0.0.1 port {port}: timed out" in result.stderr


def test_a_response_that_is_not_http_is_named() -> None:
    with running_receiver(send_bytes(b"SSH-2.0\r\n\r\n")) as other:
        result = run_webhooks("trigger", "endpoint.test", "--forward-to", url_of(other.port))
    assert result.exit_code == 3
    assert "its response is not HTTP" in result.stderr


def test_of_an_endless_response_only_the_beginning_is_read() -> None:
    with running_receiver(stream_body(b"x" * 4_096)) as endless:
        result = run_webhooks("trigger", "endpoint.test", "--forward-to", url_of(endless.port))
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("listen", "--forward-to", "http://10.0.0.1/"), "to this machine only"),
        (
            ("trigger", "upload.stored", "--forward-to", "https://example.com/x?token=s3cret"),
            "only",
        ),
        (("trigger", "upload.stored", "--forward-to", "http://u:s3cret@127.0.0.1/"), "user name"),
        (("trigger", "upload.stored", "--forward-to", "unix:/s3cret"), "http://"),
        (("trigger", "upload.lost"), "upload.stored"),
        (("listen", "--events", "upload.lost"), "upload.stored"),
        (("listen", "--forward-to", "3000"), "as in http://127.0.0.1:3000/hook"),
        (("trigger",), "TYPE"),
    ],
)
def test_a_wrong_use_is_told_what_is_wrong(words: tuple[str, ...], text: str) -> None:
    result = run_webhooks(*words)
    assert result.exit_code == 2
    assert text in result.stderr
    assert "s3cret" not in result.stderr


@pytest.mark.parametrize(
    "words", [("listen",), ("listen", "--print-secret"), ("trigger", "endpoint.test")]
)
def test_a_tenant_without_a_key_is_told_what_it_needs(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VALETKEY_KEY")
    monkeypatch.setenv("VALETKEY_TENANT", "acme")
    result = run_webhooks(*words)
    assert result.exit_code == 2
    assert "needs the tenant's key" in result.stderr
    assert "`valetkey keygen TENANT` creates a key" in " ".join(result.stderr.split())


def test_a_service_that_cannot_be_reached_is_named() -> None:
    result = run_webhooks("listen")
    assert (result.exit_code, result.stdout) == (3, "")
    assert "127.0.0.1:1" in result.stderr
