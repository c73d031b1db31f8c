"""Webhook hosts that lead into the network of the service: it connects to none of them."""

import socket
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address

import pytest

from tests.attacks.conftest import AttackTable
from tests.support.builders.delivery_service import SECRET
from tests.support.servers.webhook_receiver import (
    FakeResolver,
    WebhookReceiver,
    respond_with,
    running_receiver,
)
from tests.unit.base.test_webhook_rules import DENIED
from worker.clock import now
from worker.rules.tenant_config import Tenant, WebhookEndpoint
from worker.webhooks.commands.endpoint_trial import try_endpoint
from worker.webhooks.webhook_client import WebhookClient, WebhookFailure
from worker.webhooks.webhook_connection import Address

ANY = "0.0.0.0"  # noqa: S104 - nothing binds to it
# How the machine's own addresses, and the metadata service's, can be written as a host.
WRITTEN_HOSTS = (
    *("127.0.0.1", "127.1", "127.0.1", "0", ANY, "2130706433", "0x7f000001", "0x7f.1"),
    *("0177.0.0.1", "017700000001", "127.0.0.1."),
    *("127。0。0。1", "①②⑦.⓪.⓪.①", "\uff11\uff12\uff17.0.0.1"),
    *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::127.0.0.1]", "[0:0:0:0:0:0:0:1]"),
    "[fe80::1%25lo]",
    *("localhost", "LOCALHOST", "localhost.", "ip6-localhost", "127.0.0.1%2f.example.com"),
    *("169.254.169.254", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "[fd00:ec2::254]"),
    *("user@example.com", "user:pw@127.0.0.1", "example.com@127.0.0.1", "example.com\\@127.0.0.1"),
    *("127.0.0.1\t.example.com", "example.com\n", "exa mple.com", "", ".", "..", "-a.example.com"),
)


class ConnectionTried(Exception):
    """A connection was tried."""


@pytest.fixture
def no_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionTried

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr("asyncio.BaseEventLoop.sock_connect", refuse)


def failure_reason(client: WebhookClient, url: str) -> str:
    with pytest.raises(WebhookFailure) as caught:
        client.post(url, b"{}", {})
    return caught.value.reason


@pytest.mark.usefixtures("no_connections")
@pytest.mark.parametrize("host", WRITTEN_HOSTS)
def test_a_host_that_is_no_public_name_is_never_connected_to(
    host: str, attack_table: AttackTable
) -> None:
    reason = failure_reason(WebhookClient(), f"https://{host}/hook")
    is_refused = reason in {"url_refused", "address_denied"}
    attack_table.add("webhook hosts as written", 1, 0 if is_refused else 1)
    assert is_refused


@pytest.mark.usefixtures("no_connections")
@pytest.mark.parametrize("address", [text for texts in DENIED.values() for text in texts])
@pytest.mark.parametrize("beside", [[], ["93.184.215.14"]], ids=["alone", "beside a public one"])
def test_a_name_that_resolves_to_an_internal_address_is_never_connected_to(
    address: str, beside: list[str], attack_table: AttackTable
) -> None:
    addresses: list[Address] = [ip_address(each) for each in (*beside, address)]
    client = WebhookClient(resolve=FakeResolver(addresses))
    reason = failure_reason(client, "https://hooks.example.com/")
    attack_table.add("addresses that a name resolves to", 1, int(reason != "address_denied"))
    assert reason == "address_denied"


@pytest.mark.usefixtures("no_connections")
@pytest.mark.parametrize(
    "host", [*WRITTEN_HOSTS, *(text for texts in DENIED.values() for text in texts)]
)
def test_a_test_of_an_endpoint_connects_to_no_host_that_a_delivery_does_not_connect_to(
    host: str, attack_table: AttackTable
) -> None:
    client = WebhookClient()
    if host not in WRITTEN_HOSTS:
        client, host = WebhookClient(resolve=FakeResolver([ip_address(host)])), "hooks.example.com"
    endpoint = WebhookEndpoint("hook", f"https://{host}/hook", "env:HOOK")
    trial = try_endpoint(Tenant("acme"), endpoint, client, {"HOOK": SECRET}, now())
    is_refused = (trial.problem or "").startswith(("url_refused", "address_denied"))
    attack_table.add("hosts of endpoints that are tested", 1, 0 if is_refused else 1)
    assert is_refused


@pytest.fixture(scope="module")
def receiver() -> Iterator[WebhookReceiver]:
    with running_receiver(respond_with(), keeps_alive=True) as receiver:
        yield receiver


IN_DEVELOPMENT = [text for reason in DENIED if reason != "loopback" for text in DENIED[reason]]


@pytest.mark.parametrize("address", IN_DEVELOPMENT)
@pytest.mark.parametrize("beside", [[], ["127.0.0.1"]], ids=["alone", "beside an allowed one"])
def test_a_name_that_is_bound_to_an_internal_address_loses_its_kept_connection(
    address: str,
    beside: list[str],
    receiver: WebhookReceiver,
    attack_table: AttackTable,
    request: pytest.FixtureRequest,
) -> None:
    addresses: list[Address] = [ip_address(each) for each in (*beside, address)]
    resolver = FakeResolver([ip_address("127.0.0.1")], addresses)
    client = WebhookClient(development=True, resolve=resolver, dns_lifetime=timedelta())
    url = f"http://hooks.example.com:{receiver.port}/"
    client.post(url, b"{}", {})
    received = len(receiver.paths)
    request.getfixturevalue("no_connections")
    reason = failure_reason(client, url)
    attack_table.add("addresses after a kept connection", 1, int(reason != "address_denied"))
    assert reason == "address_denied"
    assert len(receiver.paths) == received
