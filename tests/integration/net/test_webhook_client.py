import logging
import socket
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from ipaddress import ip_address

import pytest

from tests.support.servers.certificates import Authority
from tests.support.servers.webhook_receiver import (
    Answer,
    Names,
    answer,
    drip_headers,
    listening,
    receiving,
    say,
    stream,
    touched,
)
from worker.core.webhooks.addresses import Address
from worker.net.webhook_client import (
    MAX_RESPONSE_BYTES,
    Resolver,
    WebhookClient,
    WebhookFailure,
    WebhookResponse,
    resolve_host,
)

NAME = "hooks.example.com"
LOOPBACK = ip_address("127.0.0.1")
LOOPBACK_6 = ip_address("::1")
DENIED = [ip_address(text) for text in ("10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1")]
SHORT = timedelta(seconds=0.5)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def local() -> WebhookClient:
    return WebhookClient(development=True, resolve=Names([LOOPBACK]))


def failure(courier: WebhookClient, url: str, body: bytes = b"{}") -> WebhookFailure:
    with pytest.raises(WebhookFailure) as raised:
        courier.post(url, body, {})
    return raised.value


@contextmanager
def cut_short(resolve: Resolver) -> Iterator[WebhookClient]:
    """A courier with a short deadline, and the check that it kept it on a busy machine."""
    started = time.monotonic()
    yield WebhookClient(development=True, resolve=resolve, deadline=SHORT)
    assert time.monotonic() - started < 10 * SHORT.total_seconds()


def test_the_body_and_the_headers_arrive_as_they_were_given(local: WebhookClient) -> None:
    with receiving(answer(202)) as receiver:
        url = f"http://{NAME}:{receiver.port}/in?token=a%20b"
        reply = local.post(url, b'{"\xc3\xbc": 1}', {"webhook-id": "msg_1"})
    assert reply == WebhookResponse(202, None)
    assert receiver.paths == ["/in?token=a%20b"]
    assert receiver.bodies == [b'{"\xc3\xbc": 1}']
    assert receiver.headers[0]["webhook-id"] == "msg_1"
    assert receiver.headers[0]["Host"] == f"{NAME}:{receiver.port}"


def test_the_pinned_address_must_prove_the_original_name(authority: Authority) -> None:
    names = Names([LOOPBACK])
    courier = WebhookClient(development=True, resolve=names, trust=authority.trust)
    with receiving(answer(), authority.server(NAME)) as receiver:
        reply = courier.post(f"https://{NAME}:{receiver.port}/in", b"{}", {})
    assert reply.status == 204
    assert receiver.names == [NAME]
    assert names.asked == [(NAME, receiver.port)]


@pytest.mark.parametrize("certified", ["other.example.com", "127.0.0.1"])
def test_a_certificate_for_another_name_is_refused(authority: Authority, certified: str) -> None:
    courier = WebhookClient(development=True, resolve=Names([LOOPBACK]), trust=authority.trust)
    with receiving(answer(), authority.server(certified)) as receiver:
        assert failure(courier, f"https://{NAME}:{receiver.port}/").reason == "tls_failed"
    assert receiver.bodies == []


def test_a_certificate_of_an_unknown_authority_is_refused(
    authority: Authority, local: WebhookClient
) -> None:
    with receiving(answer(), authority.server(NAME)) as receiver:
        assert failure(local, f"https://{NAME}:{receiver.port}/").reason == "tls_failed"
    assert receiver.bodies == []


def test_a_redirect_is_a_status_and_is_not_followed(local: WebhookClient) -> None:
    with listening() as elsewhere:
        location = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/"
        with receiving(answer(307, Location=location)) as receiver:
            assert local.post(f"http://{NAME}:{receiver.port}/", b"{}", {}).status == 307
        assert not touched(elsewhere)
    assert len(receiver.paths) == 1


def test_a_cookie_is_not_sent_back(local: WebhookClient) -> None:
    with receiving(answer(Set_Cookie="session=1; Path=/")) as receiver:
        for _ in range(2):
            local.post(f"http://{NAME}:{receiver.port}/", b"{}", {})
    assert [headers.get("Cookie") for headers in receiver.headers] == [None, None]


def test_a_proxy_of_the_environment_is_not_used(
    local: WebhookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as proxy, receiving(answer()) as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        local.post(f"http://{NAME}:{receiver.port}/", b"{}", {})
        assert not touched(proxy)


@pytest.mark.parametrize("denied", DENIED)
@pytest.mark.parametrize("last", [True, False])
def test_one_denied_answer_among_allowed_ones_stops_the_delivery_before_any_connection(
    denied: Address,
    last: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    answers = [LOOPBACK, denied] if last else [denied, LOOPBACK]
    with listening() as endpoint:
        courier = WebhookClient(development=True, resolve=Names(answers))
        url = f"http://{NAME}:{endpoint.getsockname()[1]}/"
        assert failure(courier, url).reason == "address_denied"
        assert not touched(endpoint)


def test_a_name_that_is_bound_anew_between_attempts_is_judged_anew() -> None:
    courier = WebhookClient(development=True, resolve=Names([LOOPBACK], [DENIED[1]]))
    with receiving(answer(503)) as receiver:
        url = f"http://{NAME}:{receiver.port}/"
        assert courier.post(url, b"{}", {}).status == 503
        assert failure(courier, url).reason == "address_denied"
    assert len(receiver.paths) == 1


def test_a_name_that_is_bound_anew_after_it_was_judged_changes_nothing() -> None:
    names = Names([LOOPBACK], [DENIED[1]])
    with receiving(answer()) as receiver:
        url = f"http://{NAME}:{receiver.port}/"
        assert WebhookClient(development=True, resolve=names).post(url, b"{}", {}).status == 204
    assert len(names.asked) == 1


@pytest.mark.parametrize("address", [LOOPBACK, LOOPBACK_6])
def test_loopback_is_denied_outside_development(address: Address) -> None:
    courier = WebhookClient(resolve=Names([address]))
    assert failure(courier, f"https://{NAME}/").reason == "address_denied"


def test_a_refused_url_is_not_resolved() -> None:
    names = Names([LOOPBACK])
    assert failure(WebhookClient(resolve=names), f"http://{NAME}/").reason == "url_refused"
    assert names.asked == []


def test_an_address_that_refuses_the_connection_gives_way_to_the_next() -> None:
    courier = WebhookClient(development=True, resolve=Names([LOOPBACK_6, LOOPBACK]))
    with receiving(answer()) as receiver:
        assert courier.post(f"http://{NAME}:{receiver.port}/", b"{}", {}).status == 204


@pytest.mark.parametrize("drip", [drip_headers, stream(b"x", pause=0.05)])
def test_an_endpoint_that_drips_its_answer_is_cut_at_the_deadline(drip: Answer) -> None:
    with receiving(drip) as receiver, cut_short(Names([LOOPBACK])) as courier:
        assert failure(courier, f"http://{NAME}:{receiver.port}/").reason == "timed_out"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_endpoint_that_says_nothing_is_cut_at_the_deadline(scheme: str) -> None:
    with listening() as endpoint, cut_short(Names([LOOPBACK])) as courier:
        url = f"{scheme}://{NAME}:{endpoint.getsockname()[1]}/"
        assert failure(courier, url, b"x" * 10_000_000).reason == "timed_out"


def test_a_resolver_that_does_not_return_is_cut_at_the_deadline() -> None:
    released = threading.Event()

    def hangs(_host: str, _port: int) -> Sequence[Address]:
        released.wait()
        return [LOOPBACK]

    try:
        with cut_short(hangs) as courier:
            assert failure(courier, f"http://{NAME}/").reason == "timed_out"
    finally:
        released.set()


def test_a_long_answer_is_cut_and_its_status_counts(local: WebhookClient) -> None:
    with receiving(stream(b"x" * MAX_RESPONSE_BYTES)) as receiver:
        assert local.post(f"http://{NAME}:{receiver.port}/", b"{}", {}) == WebhookResponse(
            200, None
        )


def test_the_wish_of_a_busy_endpoint_is_returned(local: WebhookClient) -> None:
    with receiving(answer(429, Retry_After="120")) as receiver:
        reply = local.post(f"http://{NAME}:{receiver.port}/", b"{}", {})
    assert reply == WebhookResponse(429, timedelta(minutes=2))


def test_an_endpoint_that_is_not_there_is_a_connection_failure(local: WebhookClient) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    assert failure(local, f"http://{NAME}:{port}/").reason == "connection_failed"


@pytest.mark.parametrize("line", [b"", b"not http\r\n\r\n"])
def test_an_endpoint_that_breaks_off_is_a_connection_failure(
    local: WebhookClient, line: bytes
) -> None:
    with receiving(say(line)) as receiver:
        error = failure(local, f"http://{NAME}:{receiver.port}/")
    assert error.reason == "connection_failed"


def test_a_name_that_does_not_resolve_is_a_dns_failure() -> None:
    def unknown(_host: str, _port: int) -> Sequence[Address]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    for resolve in (unknown, Names([])):
        assert failure(WebhookClient(resolve=resolve), f"https://{NAME}/").reason == "dns_failed"


def test_the_system_resolver_gives_addresses() -> None:
    assert LOOPBACK in resolve_host("localhost", 80)


def test_neither_a_failure_nor_the_log_shows_the_url(
    local: WebhookClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with receiving(answer()) as receiver:
        local.post(f"http://{NAME}:{receiver.port}/hush?token=hush", b"hush", {"x": "hush"})
    error = failure(local, f"http://{NAME}:{receiver.port}/hush?token=hush")
    shown = caplog.text + "".join(traceback.format_exception(error))
    assert NAME in str(error)
    assert "hush" not in shown
