import logging
import traceback
from datetime import timedelta
from ipaddress import ip_address

import pytest

from tests.integration.net.conftest import HOST, LOOPBACK, post_error
from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.webhook_receiver import (
    FakeResolver,
    has_connection,
    respond_with,
    running_receiver,
    silent_endpoint,
    stream_body,
)
from worker.core.webhooks.addresses import Address
from worker.net.webhook_client import (
    MAX_RESPONSE_BYTES,
    WebhookClient,
    WebhookResponse,
    resolve_host,
)

LOOPBACK_6 = ip_address("::1")
DENIED = [ip_address(text) for text in ("10.0.0.1", "169.254.169.254", "::ffff:127.0.0.1")]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("authority"))


def test_the_body_and_the_headers_arrive_as_they_were_given(loopback_client: WebhookClient) -> None:
    with running_receiver(respond_with(202)) as receiver:
        url = f"http://{HOST}:{receiver.port}/in?token=a%20b"
        response = loopback_client.post(url, b'{"\xc3\xbc": 1}', {"webhook-id": "msg_1"})
    assert response == WebhookResponse(202, None)
    assert receiver.paths == ["/in?token=a%20b"]
    assert receiver.bodies == [b'{"\xc3\xbc": 1}']
    assert receiver.headers[0]["webhook-id"] == "msg_1"
    assert receiver.headers[0]["Host"] == f"{HOST}:{receiver.port}"


def test_the_pinned_address_must_prove_the_original_name(authority: CertificateAuthority) -> None:
    resolver = FakeResolver([LOOPBACK])
    client = WebhookClient(development=True, resolve=resolver, ssl_context=authority.client_context)
    with running_receiver(respond_with(), authority.server_context(HOST)) as receiver:
        response = client.post(f"https://{HOST}:{receiver.port}/in", b"{}", {})
    assert response.status == 204
    assert receiver.sni_names == [HOST]
    assert resolver.lookups == [(HOST, receiver.port)]


@pytest.mark.parametrize("certified", ["other.example.com", "127.0.0.1"])
def test_a_certificate_for_another_name_is_refused(
    authority: CertificateAuthority, certified: str
) -> None:
    client = WebhookClient(
        development=True, resolve=FakeResolver([LOOPBACK]), ssl_context=authority.client_context
    )
    with running_receiver(respond_with(), authority.server_context(certified)) as receiver:
        assert post_error(client, f"https://{HOST}:{receiver.port}/").reason == "tls_failed"
    assert receiver.bodies == []


def test_a_certificate_of_an_unknown_authority_is_refused(
    authority: CertificateAuthority, loopback_client: WebhookClient
) -> None:
    with running_receiver(respond_with(), authority.server_context(HOST)) as receiver:
        assert (
            post_error(loopback_client, f"https://{HOST}:{receiver.port}/").reason == "tls_failed"
        )
    assert receiver.bodies == []


def test_a_redirect_is_a_status_and_is_not_followed(loopback_client: WebhookClient) -> None:
    with silent_endpoint() as redirect_target:
        location = f"http://127.0.0.1:{redirect_target.getsockname()[1]}/"
        with running_receiver(respond_with(307, Location=location)) as receiver:
            assert loopback_client.post(f"http://{HOST}:{receiver.port}/", b"{}", {}).status == 307
        assert not has_connection(redirect_target)
    assert len(receiver.paths) == 1


def test_a_cookie_is_not_sent_back(loopback_client: WebhookClient) -> None:
    with running_receiver(respond_with(Set_Cookie="session=1; Path=/")) as receiver:
        for _ in range(2):
            loopback_client.post(f"http://{HOST}:{receiver.port}/", b"{}", {})
    assert [headers.get("Cookie") for headers in receiver.headers] == [None, None]


def test_a_proxy_of_the_environment_is_not_used(
    loopback_client: WebhookClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with silent_endpoint() as proxy, running_receiver(respond_with()) as receiver:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        loopback_client.post(f"http://{HOST}:{receiver.port}/", b"{}", {})
        assert not has_connection(proxy)


@pytest.mark.parametrize("denied", DENIED)
@pytest.mark.parametrize("last", [True, False])
def test_one_denied_answer_among_allowed_ones_stops_the_delivery_before_any_connection(
    denied: Address,
    last: bool,  # noqa: FBT001 - a parameter of the test
) -> None:
    answers = [LOOPBACK, denied] if last else [denied, LOOPBACK]
    with silent_endpoint() as endpoint:
        client = WebhookClient(development=True, resolve=FakeResolver(answers))
        url = f"http://{HOST}:{endpoint.getsockname()[1]}/"
        assert post_error(client, url).reason == "address_denied"
        assert not has_connection(endpoint)


def test_a_name_that_is_bound_anew_between_attempts_is_judged_anew() -> None:
    client = WebhookClient(development=True, resolve=FakeResolver([LOOPBACK], [DENIED[1]]))
    with running_receiver(respond_with(503)) as receiver:
        url = f"http://{HOST}:{receiver.port}/"
        assert client.post(url, b"{}", {}).status == 503
        assert post_error(client, url).reason == "address_denied"
    assert len(receiver.paths) == 1


def test_a_name_that_is_bound_anew_after_it_was_judged_changes_nothing() -> None:
    resolver = FakeResolver([LOOPBACK], [DENIED[1]])
    with running_receiver(respond_with()) as receiver:
        url = f"http://{HOST}:{receiver.port}/"
        assert WebhookClient(development=True, resolve=resolver).post(url, b"{}", {}).status == 204
    assert len(resolver.lookups) == 1


@pytest.mark.parametrize("address", [LOOPBACK, LOOPBACK_6])
def test_loopback_is_denied_outside_development(address: Address) -> None:
    client = WebhookClient(resolve=FakeResolver([address]))
    assert post_error(client, f"https://{HOST}/").reason == "address_denied"


def test_a_refused_url_is_not_resolved() -> None:
    resolver = FakeResolver([LOOPBACK])
    assert post_error(WebhookClient(resolve=resolver), f"http://{HOST}/").reason == "url_refused"
    assert resolver.lookups == []


def test_an_address_that_refuses_the_connection_gives_way_to_the_next() -> None:
    client = WebhookClient(development=True, resolve=FakeResolver([LOOPBACK_6, LOOPBACK]))
    with running_receiver(respond_with()) as receiver:
        assert client.post(f"http://{HOST}:{receiver.port}/", b"{}", {}).status == 204


def test_a_long_answer_is_cut_and_its_status_counts(loopback_client: WebhookClient) -> None:
    with running_receiver(stream_body(b"x" * MAX_RESPONSE_BYTES)) as receiver:
        assert loopback_client.post(
            f"http://{HOST}:{receiver.port}/", b"{}", {}
        ) == WebhookResponse(200, None)


def test_the_wish_of_a_busy_endpoint_is_returned(loopback_client: WebhookClient) -> None:
    with running_receiver(respond_with(429, Retry_After="120")) as receiver:
        response = loopback_client.post(f"http://{HOST}:{receiver.port}/", b"{}", {})
    assert response == WebhookResponse(429, timedelta(minutes=2))


def test_the_system_resolver_gives_addresses() -> None:
    assert LOOPBACK in resolve_host("localhost", 80)


def test_neither_a_failure_nor_the_log_shows_the_url(
    loopback_client: WebhookClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with running_receiver(respond_with()) as receiver:
        loopback_client.post(
            f"http://{HOST}:{receiver.port}/hush?token=hush", b"hush", {"x": "hush"}
        )
    error = post_error(loopback_client, f"http://{HOST}:{receiver.port}/hush?token=hush")
    output = caplog.text + "".join(traceback.format_exception(error))
    assert HOST in str(error)
    assert "hush" not in output
