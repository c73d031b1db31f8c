import logging
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.webhook_receiver import (
    FakeResolver,
    Responder,
    WebhookReceiver,
    drip_headers,
    has_connection,
    is_closed_by_client,
    respond_with,
    running_receiver,
    send_bytes,
    silent_endpoint,
    stream_body,
)
from worker.webhooks.webhook_client import Resolver, WebhookClient, WebhookFailure, resolve_host
from worker.webhooks.webhook_connection import MAX_RESPONSE_BYTES, Address, WebhookResponse

HOST = "hooks.example.com"
LOOPBACK, LOOPBACK_6 = ip_address("127.0.0.1"), ip_address("::1")
DENIED = [ip_address(text) for text in ("10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1")]
TO_LOOPBACK = FakeResolver([LOOPBACK])
SHORT_TIMEOUT = timedelta(seconds=0.5)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


def client_of(resolve: Resolver = TO_LOOPBACK, **options: Any) -> WebhookClient:
    """Return a client that may reach loopback, to which every host name resolves by default."""
    return WebhookClient(development=True, resolve=resolve, **options)


def url_of(endpoint: WebhookReceiver | socket.socket, scheme: str = "http") -> str:
    """Return the URL of an endpoint, which names a host."""
    if isinstance(endpoint, WebhookReceiver):
        return f"{scheme}://{HOST}:{endpoint.port}/"
    return f"{scheme}://{HOST}:{endpoint.getsockname()[1]}/"


def post(
    endpoint: WebhookReceiver | socket.socket, client: WebhookClient | None = None
) -> WebhookResponse:
    return (client or client_of()).post(url_of(endpoint), b"{}", {})


def post_error(client: WebhookClient, url: str, body: bytes = b"{}") -> WebhookFailure:
    """Return the error that a POST raises."""
    with pytest.raises(WebhookFailure) as raised:
        client.post(url, body, {})
    return raised.value


def test_the_body_and_the_headers_arrive_as_they_were_given() -> None:
    with running_receiver(respond_with(202)) as receiver:
        url = f"{url_of(receiver)}in?token=a%20b"
        response = client_of().post(url, b'{"\xc3\xbc": 1}', {"webhook-id": "msg_1"})
    assert response == WebhookResponse(202, None)
    assert receiver.paths == ["/in?token=a%20b"]
    assert receiver.bodies == [b'{"\xc3\xbc": 1}']
    assert receiver.headers[0]["webhook-id"] == "msg_1"
    assert receiver.headers[0]["Host"] == f"{HOST}:{receiver.port}"


def test_a_path_that_is_not_ascii_is_percent_encoded() -> None:
    with running_receiver(respond_with()) as receiver:
        client_of().post(f"{url_of(receiver)}f\u00fcr/%41?a=\u20ac&b={{1}}", b"{}", {})
    assert receiver.paths == ["/f%C3%BCr/%41?a=%E2%82%AC&b=%7B1%7D"]


def test_the_pinned_address_must_prove_the_original_name(authority: CertificateAuthority) -> None:
    resolver = FakeResolver([LOOPBACK])
    client = client_of(resolver, ssl_context=authority.client_context)
    with running_receiver(respond_with(), authority.server_context(HOST)) as receiver:
        response = client.post(url_of(receiver, "https"), b"{}", {})
    assert response.status == 204
    assert receiver.sni_names == [HOST]
    assert resolver.lookups == [(HOST, receiver.port)]


@pytest.mark.parametrize(
    ("certified", "is_known"),
    [
        pytest.param("other.example.com", True, id="for another name"),
        pytest.param("127.0.0.1", True, id="for the address"),
        pytest.param(HOST, False, id="of an unknown authority"),
    ],
)
def test_a_certificate_of_nobody_who_may_answer_for_the_name_is_refused(
    authority: CertificateAuthority, certified: str, *, is_known: bool
) -> None:
    client = client_of(ssl_context=authority.client_context) if is_known else client_of()
    with running_receiver(respond_with(), authority.server_context(certified)) as receiver:
        assert post_error(client, url_of(receiver, "https")).reason == "tls_failed"
    assert receiver.bodies == []


def test_a_redirect_is_a_status_and_is_not_followed() -> None:
    with silent_endpoint() as redirect_target:
        location = f"http://127.0.0.1:{redirect_target.getsockname()[1]}/"
        with running_receiver(respond_with(307, Location=location)) as receiver:
            assert post(receiver).status == 307
        assert not has_connection(redirect_target)
    assert len(receiver.paths) == 1


def test_a_cookie_is_not_sent_back() -> None:
    client = client_of()
    with running_receiver(respond_with(Set_Cookie="session=1; Path=/")) as receiver:
        for _ in range(2):
            post(receiver, client)
    assert [headers.get("Cookie") for headers in receiver.headers] == [None, None]


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with silent_endpoint() as proxy, running_receiver(respond_with()) as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        post(receiver)
        assert not has_connection(proxy)


@pytest.mark.parametrize("denied", DENIED)
@pytest.mark.parametrize("position", [0, 1])
def test_one_denied_answer_among_allowed_ones_stops_the_delivery_before_any_connection(
    denied: Address, position: int
) -> None:
    answers = [LOOPBACK]
    answers.insert(position, denied)
    with silent_endpoint() as endpoint:
        client = client_of(FakeResolver(answers))
        assert post_error(client, url_of(endpoint)).reason == "address_denied"
        assert not has_connection(endpoint)


def test_a_name_that_is_bound_anew_between_attempts_is_judged_anew() -> None:
    client = client_of(FakeResolver([LOOPBACK], [DENIED[1]]), dns_lifetime=timedelta())
    with running_receiver(respond_with(503)) as receiver:
        assert post(receiver, client).status == 503
        assert post_error(client, url_of(receiver)).reason == "address_denied"
    assert len(receiver.paths) == 1


@pytest.mark.parametrize("address", [LOOPBACK, LOOPBACK_6])
def test_loopback_is_denied_outside_development(address: Address) -> None:
    client = WebhookClient(resolve=FakeResolver([address]))
    assert post_error(client, f"https://{HOST}/").reason == "address_denied"


def test_a_refused_url_is_not_resolved() -> None:
    resolver = FakeResolver([LOOPBACK])
    assert post_error(WebhookClient(resolve=resolver), f"http://{HOST}/").reason == "url_refused"
    assert resolver.lookups == []


def test_an_address_that_refuses_the_connection_gives_way_to_the_next() -> None:
    with running_receiver(respond_with()) as receiver:
        client = client_of(FakeResolver([LOOPBACK_6, LOOPBACK]))
        assert post(receiver, client).status == 204


def test_a_long_answer_is_cut_and_its_status_counts() -> None:
    with running_receiver(stream_body(b"x" * MAX_RESPONSE_BYTES)) as receiver:
        assert post(receiver) == WebhookResponse(200, None, b"x" * 200)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_body_may_end_with_its_connection(authority: CertificateAuthority, scheme: str) -> None:
    client = client_of(ssl_context=authority.client_context)
    tls = authority.server_context(HOST) if scheme == "https" else None
    with running_receiver(send_bytes(b"HTTP/1.0 200 OK\r\n\r\nbody"), tls) as receiver:
        response = client.post(url_of(receiver, scheme), b"{}", {})
    assert response == WebhookResponse(200, None, b"body")


def test_the_wish_of_a_busy_endpoint_is_returned() -> None:
    with running_receiver(respond_with(429, Retry_After="120")) as receiver:
        assert post(receiver) == WebhookResponse(429, timedelta(minutes=2))


def test_the_system_resolver_gives_addresses() -> None:
    assert LOOPBACK in resolve_host("localhost", 80)


def test_neither_a_failure_nor_the_log_shows_the_url(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with running_receiver(respond_with()) as receiver:
        url = f"{url_of(receiver)}hush?token=hush"
        client_of().post(url, b"hush", {"x": "hush"})
    error = post_error(client_of(), url)
    output = caplog.text + "".join(traceback.format_exception(error))
    assert HOST in str(error)
    assert "hush" not in output


@contextmanager
def client_with_short_timeout(resolve: Resolver = TO_LOOPBACK) -> Iterator[WebhookClient]:
    """Yield a client with a short timeout; check that it is met, with time for a busy machine."""
    start = time.monotonic()
    yield client_of(resolve, timeout=SHORT_TIMEOUT)
    assert time.monotonic() - start < 10 * SHORT_TIMEOUT.total_seconds()


@pytest.mark.parametrize("responder", [drip_headers, stream_body(b"x", pause=0.05)])
def test_an_endpoint_that_drips_its_answer_is_cut_at_the_deadline(responder: Responder) -> None:
    with running_receiver(responder) as receiver, client_with_short_timeout() as client:
        assert post_error(client, url_of(receiver)).reason == "timed_out"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_endpoint_that_says_nothing_is_cut_at_the_deadline(scheme: str) -> None:
    with silent_endpoint() as endpoint, client_with_short_timeout() as client:
        error = post_error(client, url_of(endpoint, scheme), b"x" * 10_000_000)
        assert error.reason == "timed_out"


def test_the_deadline_closes_a_connection_in_the_middle_of_its_tls_handshake() -> None:
    # A handshake is given up after a third of the time, so the deadline meets the third one.
    resolver = FakeResolver([LOOPBACK] * 3)
    with silent_endpoint() as endpoint, client_with_short_timeout(resolver) as client:
        assert post_error(client, url_of(endpoint, "https")).reason == "timed_out"
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


def test_an_endpoint_that_is_not_there_is_a_connection_failure() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = url_of(listener)
    assert post_error(client_of(), url).reason == "connection_failed"


@pytest.mark.parametrize("line", [b"", b"not http\r\n\r\n"])
def test_an_endpoint_that_breaks_off_is_a_connection_failure(line: bytes) -> None:
    with running_receiver(send_bytes(line)) as receiver:
        assert post_error(client_of(), url_of(receiver)).reason == "connection_failed"


def test_a_name_that_does_not_resolve_is_a_dns_failure() -> None:
    def unknown(_host: str, _port: int) -> Sequence[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    for resolve in (unknown, FakeResolver([])):
        assert post_error(WebhookClient(resolve=resolve), f"https://{HOST}/").reason == "dns_failed"
