import gc
import gzip
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.waiting import wait_until
from tests.support.servers.webhook_receiver import (
    FakeResolver,
    Responder,
    WebhookReceiver,
    drip_headers,
    has_connection,
    respond_with,
    running_receiver,
    send_bytes,
    silent_endpoint,
    stream_body,
    take_turns,
)
from worker.webhooks import webhook_client, webhook_connection
from worker.webhooks.webhook_client import WebhookClient, WebhookFailure
from worker.webhooks.webhook_connection import (
    MAX_IDLE_PER_ORIGIN,
    MAX_RESPONSE_BYTES,
    WebhookResponse,
)

HOST, OTHER_HOST = "hooks.example.com", "other.example.com"
LOOPBACK, LOOPBACK_2, DENIED = map(ip_address, ("127.0.0.1", "127.0.0.2", "10.0.0.1"))
AT_ONCE = timedelta()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


def client_of(*answers: Any, **options: Any) -> WebhookClient:
    """Return a client to which every name resolves to loopback, or to these answers in turn."""
    resolver = FakeResolver(*answers or [[LOOPBACK]])
    return WebhookClient(development=True, resolve=resolver, **options)


def url_of(receiver: WebhookReceiver, host: str = HOST, scheme: str = "http") -> str:
    return f"{scheme}://{host}:{receiver.port}/"


def post(client: WebhookClient, receiver: WebhookReceiver, body: bytes = b"{}") -> WebhookResponse:
    return client.post(url_of(receiver), body, {})


def post_error(client: WebhookClient, url: str, body: bytes = b"{}") -> str:
    """Return the reason why a POST fails."""
    with pytest.raises(WebhookFailure) as raised:
        client.post(url, body, {})
    return raised.value.reason


OK = respond_with()


def echo_id(handler: BaseHTTPRequestHandler) -> None:
    content = handler.headers["webhook-id"].encode()
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(content)))
    handler.end_headers()
    handler.wfile.write(content)


def wait_for(barrier: threading.Barrier) -> Responder:
    """Return a responder that waits until as many requests as the barrier has parties arrived."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        barrier.wait(10)
        OK(handler)

    return respond


def send_response_twice(pause: float) -> Responder:
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(response)
        threading.Event().wait(pause)
        handler.wfile.write(response)

    return respond


def post_at_once(client: WebhookClient, receiver: WebhookReceiver, count: int) -> None:
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(lambda _: post(client, receiver), range(count)))


def break_off(handler: BaseHTTPRequestHandler) -> None:
    """Close the connection without a response."""
    handler.close_connection = True


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_posts_to_one_endpoint_share_a_connection(
    authority: CertificateAuthority, scheme: str
) -> None:
    client = client_of(ssl_context=authority.client_context)
    tls = authority.server_context(HOST) if scheme == "https" else None
    with running_receiver(OK, tls, keeps_alive=True) as receiver:
        for _ in range(3):
            assert client.post(url_of(receiver, scheme=scheme), b"{}", {}).status == 204
        assert (len(receiver.paths), receiver.connections) == (3, 1)


def test_what_a_connection_may_receive_is_bounded_for_each_post() -> None:
    body = b"x" * (MAX_RESPONSE_BYTES // 2)
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    client = client_of()
    with running_receiver(send_bytes(head + body, closes=False), keeps_alive=True) as receiver:
        for _ in range(4):
            assert post(client, receiver).status == 200
        assert receiver.connections == 1


def test_two_hosts_at_one_address_share_no_connection(authority: CertificateAuthority) -> None:
    client = client_of(ssl_context=authority.client_context)
    tls = authority.server_context(HOST)
    with running_receiver(OK, tls, keeps_alive=True) as receiver:
        client.post(url_of(receiver, scheme="https"), b"{}", {})
        assert post_error(client, url_of(receiver, OTHER_HOST, "https")) == "tls_failed"
        client.post(url_of(receiver, scheme="https"), b"{}", {})
    assert len(receiver.paths) == 2
    assert receiver.sni_names == [HOST, OTHER_HOST]


def test_a_kept_connection_is_not_used_once_the_name_leads_to_a_denied_address() -> None:
    client = client_of([LOOPBACK], [DENIED], dns_lifetime=AT_ONCE)
    with running_receiver(OK, keeps_alive=True) as receiver:
        post(client, receiver)
        assert post_error(client, url_of(receiver)) == "address_denied"
        assert (len(receiver.paths), receiver.connections) == (1, 1)


def test_a_kept_connection_is_not_used_once_a_denied_address_joins_its_own() -> None:
    client = client_of([LOOPBACK], [LOOPBACK, DENIED], dns_lifetime=AT_ONCE)
    with running_receiver(OK, keeps_alive=True) as receiver:
        post(client, receiver)
        assert post_error(client, url_of(receiver)) == "address_denied"
        assert len(receiver.paths) == 1


def test_a_name_that_moves_to_another_allowed_address_is_followed() -> None:
    client = client_of([LOOPBACK], [LOOPBACK_2], dns_lifetime=AT_ONCE)
    with (
        running_receiver(OK, keeps_alive=True) as before,
        running_receiver(OK, keeps_alive=True, address=(str(LOOPBACK_2), before.port)) as after,
    ):
        post(client, before)
        post(client, before)
        assert (len(before.paths), len(after.paths)) == (1, 1)


def test_a_kept_connection_serves_as_long_as_its_address_is_one_of_the_names_addresses() -> None:
    client = client_of([LOOPBACK], [LOOPBACK_2, LOOPBACK], dns_lifetime=AT_ONCE)
    with running_receiver(OK, keeps_alive=True) as receiver:
        post(client, receiver)
        post(client, receiver)
        assert receiver.connections == 1


def test_a_name_is_resolved_again_only_after_a_while() -> None:
    resolver = FakeResolver([LOOPBACK])
    client = WebhookClient(development=True, resolve=resolver)
    with running_receiver(OK) as receiver:
        post(client, receiver)
        post(client, receiver)
    assert resolver.lookups == [(HOST, receiver.port)]


def test_the_addresses_of_few_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_client, "_MAX_RESOLVED", 1)
    resolver = FakeResolver([LOOPBACK])
    client = WebhookClient(development=True, resolve=resolver)
    with running_receiver(OK) as receiver:
        for host in ("a", "b", "b", "a"):
            client.post(url_of(receiver, host), b"{}", {})
    assert [host for host, _ in resolver.lookups] == ["a", "b", "a"]


def test_a_denied_answer_is_not_remembered() -> None:
    client = client_of([DENIED], [LOOPBACK])
    with running_receiver(OK) as receiver:
        assert post_error(client, url_of(receiver)) == "address_denied"
        assert post(client, receiver).status == 204


def test_a_redirect_over_a_kept_connection_is_not_followed() -> None:
    with silent_endpoint() as target:
        location = f"http://127.0.0.1:{target.getsockname()[1]}/"
        redirect = respond_with(307, Location=location)
        client = client_of()
        with running_receiver(take_turns(OK, redirect), keeps_alive=True) as receiver:
            post(client, receiver)
            assert post(client, receiver).status == 307
            assert (len(receiver.paths), receiver.connections) == (2, 1)
        assert not has_connection(target)


BOMB = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", gzip.compress(bytes(10_000_000))
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
INTERIM = b"HTTP/1.1 103 Early Hints\r\n\r\n"
HOSTILE: dict[str, tuple[Responder, int | str]] = {
    "a gzip bomb": (send_bytes(*BOMB), 200),
    "an endless body": (stream_body(b"x" * 1000), 200),
    "endless small chunks": (send_bytes(CHUNKED, b"1\r\nx\r\n"), 200),
    "an endless chunk extension": (send_bytes(CHUNKED + b"1;", b"x" * 1000), 200),
    "endless headers": (send_bytes(b"HTTP/1.1 200 OK\r\n", b"a: b\r\n"), "connection_failed"),
    "a header without an end": (
        send_bytes(b"HTTP/1.1 200 OK\r\na:", b"b" * 1000),
        "connection_failed",
    ),
    "endless interim responses": (send_bytes(b"", INTERIM), "connection_failed"),
    "a huge status line": (send_bytes(b"HTTP/1.1 200 ", b"O" * 1000), "connection_failed"),
    "no HTTP": (send_bytes(b"220 smtp.example.com\r\n"), "connection_failed"),
    "a body that breaks off": (
        send_bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"),
        "connection_failed",
    ),
    "dripping headers": (drip_headers, "timed_out"),
    "a dripping body": (stream_body(b"x", pause=0.05), "timed_out"),
    "dripping interim responses": (send_bytes(b"", INTERIM, pause=0.05), "timed_out"),
}


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_response_costs_little_and_its_connection(
    authority: CertificateAuthority, name: str, scheme: str
) -> None:
    hostile, expected = HOSTILE[name]
    seconds = 0.5 if expected == "timed_out" else 10  # the limit of bytes ends the others
    client = client_of(timeout=timedelta(seconds=seconds), ssl_context=authority.client_context)
    tls = authority.server_context(HOST) if scheme == "https" else None
    with running_receiver(take_turns(OK, hostile, OK), tls, keeps_alive=True) as receiver:
        url = url_of(receiver, scheme=scheme)
        client.post(url, b"{}", {})
        with traced_memory() as peak:
            if isinstance(expected, int):
                assert client.post(url, b"{}", {}).status == expected
            else:
                assert post_error(client, url) == expected
        assert peak() < 20 * MAX_RESPONSE_BYTES
        assert client.post(url, b"{}", {}).status == 204
        assert (len(receiver.paths), receiver.connections) == (3, 2)
        wait_until(lambda: len(receiver.open) == 1)


@contextmanager
def traced_memory() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the most memory, in bytes, that Python used in the block."""
    tracemalloc.start()
    try:
        yield lambda: tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_post_is_sent_again_if_its_kept_connection_was_just_closed() -> None:
    client = client_of()
    with running_receiver(take_turns(OK, break_off, OK), keeps_alive=True) as receiver:
        post(client, receiver, b"1")
        assert post(client, receiver, b"2").status == 204
        assert receiver.bodies == [b"1", b"2", b"2"]
        assert receiver.connections == 2


def test_a_post_is_sent_again_once_and_not_over_another_kept_connection() -> None:
    client = client_of()
    barrier = threading.Barrier(2)
    with running_receiver(
        take_turns(wait_for(barrier), wait_for(barrier), break_off), keeps_alive=True
    ) as receiver:
        post_at_once(client, receiver, 2)
        assert post_error(client, url_of(receiver)) == "connection_failed"
        assert (len(receiver.paths), receiver.connections) == (4, 3)


def test_a_post_over_a_new_connection_is_not_sent_again() -> None:
    with running_receiver(break_off, keeps_alive=True) as receiver:
        assert post_error(client_of(), url_of(receiver)) == "connection_failed"
        assert len(receiver.paths) == 1


def test_a_post_that_was_answered_in_part_is_not_sent_again() -> None:
    client = client_of()
    partial = send_bytes(b"HTTP/1.1 2")
    with running_receiver(take_turns(OK, partial, OK), keeps_alive=True) as receiver:
        post(client, receiver)
        assert post_error(client, url_of(receiver)) == "connection_failed"
        assert len(receiver.paths) == 2


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("headers", [{}, {"Connection": "close"}], ids=["silently", "as announced"])
def test_a_connection_that_the_endpoint_closes_is_forgotten(
    authority: CertificateAuthority, headers: dict[str, str], scheme: str
) -> None:
    def respond_and_close(handler: BaseHTTPRequestHandler) -> None:
        respond_with(204, **headers)(handler)
        handler.close_connection = True

    client = client_of(ssl_context=authority.client_context)
    tls = authority.server_context(HOST) if scheme == "https" else None
    with running_receiver(respond_and_close, tls, keeps_alive=True) as receiver:
        for _ in range(2):
            client.post(url_of(receiver, scheme=scheme), b"{}", {})
            wait_until(lambda: not receiver.open)
        assert (len(receiver.paths), receiver.connections) == (2, 2)


@pytest.mark.parametrize("pause", [0, 0.05])
def test_a_response_that_nobody_asked_for_answers_no_request(pause: float) -> None:
    twice = send_response_twice(pause)
    client = client_of()
    with running_receiver(take_turns(twice, OK), keeps_alive=True) as receiver:
        assert post(client, receiver).status == 200
        wait_until(lambda: not receiver.open)
        assert post(client, receiver).status == 204


def test_few_idle_connections_are_kept_for_an_endpoint() -> None:
    client = client_of()
    barrier = threading.Barrier(MAX_IDLE_PER_ORIGIN + 2)
    with running_receiver(wait_for(barrier), keeps_alive=True) as receiver:
        post_at_once(client, receiver, barrier.parties)
        assert receiver.connections == barrier.parties
        wait_until(lambda: len(receiver.open) == MAX_IDLE_PER_ORIGIN)


def test_few_idle_connections_are_kept_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_connection, "MAX_IDLE", 2)
    client = client_of()
    with running_receiver(OK, keeps_alive=True) as receiver:
        for host in ("a", "b", "c"):
            client.post(url_of(receiver, host), b"{}", {})
        wait_until(lambda: len(receiver.open) == 2)
        for host in ("c", "b", "a"):
            client.post(url_of(receiver, host), b"{}", {})
        assert receiver.connections == 4


def test_an_idle_connection_is_closed_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_connection, "IDLE_SECONDS", 0.01)
    client = client_of()
    with running_receiver(OK, keeps_alive=True) as receiver:
        post(client, receiver)
        wait_until(lambda: not receiver.open)
        assert post(client, receiver).status == 204


def test_each_of_many_threads_gets_the_response_to_its_own_post() -> None:
    client = client_of()
    with running_receiver(echo_id, keeps_alive=True) as receiver:

        def run(thread: int) -> None:
            for number in range(10):
                name = f"{thread}-{number}"
                response = client.post(url_of(receiver), b"{}", {"webhook-id": name})
                assert response.excerpt == name.encode()

        with ThreadPoolExecutor(64) as threads:
            list(threads.map(run, range(64)))
    assert len(receiver.paths) == 640


def webhook_threads() -> int:
    gc.collect()  # a warning about a socket that nobody closed would be an error
    return sum(thread.name == "webhooks" for thread in threading.enumerate())


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_client_that_is_collected_leaves_no_thread_and_no_socket(
    authority: CertificateAuthority,
) -> None:
    wait_until(lambda: not webhook_threads())
    files = open_files()
    client = client_of(ssl_context=authority.client_context, timeout=timedelta(seconds=0.5))
    responder = take_turns(OK, stream_body(b"x" * 1000), drip_headers, OK)
    with (
        running_receiver(responder, authority.server_context(HOST), keeps_alive=True) as receiver,
        silent_endpoint() as silent,
    ):
        url = url_of(receiver, scheme="https")
        assert [client.post(url, b"{}", {}).status for _ in range(2)] == [204, 200]
        assert post_error(client, url) == "timed_out"
        assert client.post(url, b"{}", {}).status == 204
        assert post_error(client, url_of(receiver, OTHER_HOST, "https")) == "tls_failed"
        assert post_error(client, f"https://{HOST}:{silent.getsockname()[1]}/") == "timed_out"
        del client
        wait_until(lambda: not webhook_threads())
        wait_until(lambda: not receiver.open)
    assert open_files() == files
