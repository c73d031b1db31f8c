import gzip
import re
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.webhook_receiver import (
    FakeResolver,
    respond_with,
    running_receiver,
    send_bytes,
    silent_endpoint,
)
from worker.webhooks.webhook_client import TraceStep, WebhookClient, WebhookFailure

HOST = "hooks.example.com"
LOOPBACK, LOOPBACK_6, DENIED = map(ip_address, ("127.0.0.1", "::1", "10.0.0.1"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


def client_of(*addresses: Any, **options: Any) -> WebhookClient:
    resolver = FakeResolver(addresses or [LOOPBACK])
    return WebhookClient(development=True, resolve=resolver, **options)


def trace_failure(client: WebhookClient, url: str) -> list[tuple[str, str]]:
    """Return the names and details of the steps of a POST that fails."""
    trace: list[TraceStep] = []
    with pytest.raises(WebhookFailure):
        client.post(url, b"{}", {}, trace)
    return [step[:2] for step in trace]


def test_the_trace_of_a_post_has_its_steps_in_order_without_the_path(
    authority: CertificateAuthority,
) -> None:
    trace: list[TraceStep] = []
    client = client_of(ssl_context=authority.client_context)
    responder = respond_with(429, Retry_After="120")
    with running_receiver(responder, authority.server_context(HOST)) as receiver:
        client.post(f"https://{HOST}:{receiver.port}/hush?hush=hush", b"hush", {}, trace)
    *_, tls, response = details = [f"{step.name} {step.detail}" for step in trace]
    assert details[:3] == [
        f"dns addresses of {HOST}: 1",
        "address 127.0.0.1: allowed (loopback, in development)",
        f"connect 127.0.0.1 port {receiver.port}",
    ]
    assert re.fullmatch(rf"tls TLSv1\.3, certificate of {HOST} until \w+ +\d+ [\d:]+ \d+ GMT", tls)
    assert response == "response status 429, retry after 0:02:00"
    assert [step.name for step in trace if step.seconds is not None] == [
        *("dns", "connect", "response")
    ]


def test_the_trace_of_a_denied_name_judges_each_address() -> None:
    steps = trace_failure(client_of(LOOPBACK, DENIED), f"https://{HOST}/")
    assert steps[1:] == [
        ("address", "127.0.0.1: allowed (loopback, in development)"),
        ("address", "10.0.0.1: denied (private)"),
    ]


def test_the_trace_names_each_address_that_was_tried() -> None:
    trace: list[TraceStep] = []
    with running_receiver(respond_with()) as receiver:
        url = f"http://{HOST}:{receiver.port}/"
        client_of(LOOPBACK_6, LOOPBACK).post(url, b"{}", {}, trace)
    assert [step.detail for step in trace if step.name == "connect"] == [
        f"::1 port {receiver.port}: Connection refused",
        f"127.0.0.1 port {receiver.port}",
    ]


def test_the_trace_says_why_a_certificate_is_refused(authority: CertificateAuthority) -> None:
    client = client_of(ssl_context=authority.client_context)
    tls = authority.server_context("other.example.com")
    with running_receiver(respond_with(), tls) as receiver:
        *_, (name, detail) = trace_failure(client, f"https://{HOST}:{receiver.port}/")
    assert name == "connect"
    assert "certificate verify failed: Hostname mismatch" in detail


def test_the_trace_says_that_an_endpoint_speaks_no_tls() -> None:
    with running_receiver(send_bytes(b"")) as receiver:
        *_, (_, detail) = trace_failure(client_of(), f"https://{HOST}:{receiver.port}/")
    assert "TLS failed: " in detail


def test_the_trace_says_that_a_handshake_took_too_long() -> None:
    client = client_of(timeout=timedelta(seconds=0.3))
    with silent_endpoint() as endpoint:
        port = endpoint.getsockname()[1]
        *_, last = trace_failure(client, f"https://{HOST}:{port}/")
    assert last == ("connect", f"127.0.0.1 port {port}: no connection in time")


def test_the_trace_of_an_endpoint_that_does_not_answer_ends_with_its_connection() -> None:
    with running_receiver(send_bytes(b"")) as receiver:
        *_, last = trace_failure(client_of(), f"http://{HOST}:{receiver.port}/")
    assert last == ("connect", f"127.0.0.1 port {receiver.port}")


def test_the_trace_says_that_a_connection_was_kept() -> None:
    client = client_of()
    with running_receiver(respond_with(), keeps_alive=True) as receiver:
        url, trace = f"http://{HOST}:{receiver.port}/", list[TraceStep]()
        client.post(url, b"{}", {})
        client.post(url, b"{}", {}, trace)
    assert trace[0].detail == "127.0.0.1 by a kept connection"
    assert [step.name for step in trace] == ["connect", "response"]


def test_the_start_of_a_body_is_returned_as_it_was_sent_and_not_shown() -> None:
    body = gzip.compress(bytes(range(256)) * 4)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}\r\n\r\n"
    with running_receiver(send_bytes(head.encode() + body)) as receiver:
        response = client_of().post(f"http://{HOST}:{receiver.port}/", b"{}", {})
    assert response.excerpt == body[:200]
    assert "excerpt" not in repr(response)
