import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import pytest

from tests.integration.net.conftest import HOST, LOOPBACK, post_error
from tests.support.servers.webhook_receiver import (
    FakeResolver,
    Responder,
    drip_headers,
    is_closed_by_client,
    running_receiver,
    send_bytes,
    silent_endpoint,
    stream_body,
)
from worker.core.webhooks.addresses import Address
from worker.net.webhook_client import Resolver, WebhookClient

SHORT_TIMEOUT = timedelta(seconds=0.5)


@contextmanager
def client_with_short_timeout(resolve: Resolver) -> Iterator[WebhookClient]:
    """Yield a client with a short timeout; check that it is met, with time for a busy machine."""
    start = time.monotonic()
    yield WebhookClient(development=True, resolve=resolve, timeout=SHORT_TIMEOUT)
    assert time.monotonic() - start < 10 * SHORT_TIMEOUT.total_seconds()


@pytest.mark.parametrize("responder", [drip_headers, stream_body(b"x", pause=0.05)])
def test_an_endpoint_that_drips_its_answer_is_cut_at_the_deadline(responder: Responder) -> None:
    with (
        running_receiver(responder) as receiver,
        client_with_short_timeout(FakeResolver([LOOPBACK])) as client,
    ):
        assert post_error(client, f"http://{HOST}:{receiver.port}/").reason == "timed_out"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_endpoint_that_says_nothing_is_cut_at_the_deadline(scheme: str) -> None:
    with (
        silent_endpoint() as endpoint,
        client_with_short_timeout(FakeResolver([LOOPBACK])) as client,
    ):
        url = f"{scheme}://{HOST}:{endpoint.getsockname()[1]}/"
        assert post_error(client, url, b"x" * 10_000_000).reason == "timed_out"


def test_the_deadline_closes_a_connection_in_the_middle_of_its_tls_handshake() -> None:
    # A handshake is given up after a third of the time, so the deadline meets the third one.
    resolver = FakeResolver([LOOPBACK] * 3)
    with silent_endpoint() as endpoint, client_with_short_timeout(resolver) as client:
        url = f"https://{HOST}:{endpoint.getsockname()[1]}/"
        assert post_error(client, url).reason == "timed_out"
        for _ in range(3):
            assert is_closed_by_client(endpoint)


def test_a_resolver_that_does_not_return_is_cut_at_the_deadline() -> None:
    released = threading.Event()

    def resolve_never(_host: str, _port: int) -> Sequence[Address]:
        released.wait()
        return [LOOPBACK]

    try:
        with client_with_short_timeout(resolve_never) as client:
            assert post_error(client, f"http://{HOST}/").reason == "timed_out"
    finally:
        released.set()


def test_an_endpoint_that_is_not_there_is_a_connection_failure(
    loopback_client: WebhookClient,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert post_error(loopback_client, f"http://{HOST}:{port}/").reason == "connection_failed"


@pytest.mark.parametrize("line", [b"", b"not http\r\n\r\n"])
def test_an_endpoint_that_breaks_off_is_a_connection_failure(
    loopback_client: WebhookClient, line: bytes
) -> None:
    with running_receiver(send_bytes(line)) as receiver:
        error = post_error(loopback_client, f"http://{HOST}:{receiver.port}/")
    assert error.reason == "connection_failed"


def test_a_name_that_does_not_resolve_is_a_dns_failure() -> None:
    def unknown(_host: str, _port: int) -> Sequence[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    for resolve in (unknown, FakeResolver([])):
        assert post_error(WebhookClient(resolve=resolve), f"https://{HOST}/").reason == "dns_failed"
