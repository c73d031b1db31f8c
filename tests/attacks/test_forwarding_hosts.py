"""A developer's events are forwarded to the developer's own machine, and nowhere else."""

import socket
from ipaddress import ip_address

import pytest

from tests.attacks.conftest import AttackTable
from tests.attacks.test_hosts import WRITTEN_HOSTS
from tests.unit.base.test_webhook_rules import DENIED
from valetkey.cli.forwarding import ForwardTarget, forward, parse_target

ALLOWED = {"127.0.0.1", "[::1]", "[0:0:0:0:0:0:0:1]", "localhost", "LOCALHOST"}
LOCALHOST = ForwardTarget("http", "localhost", 80, "/")


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that were connected to; each refuses."""
    addresses: list[str] = []

    def refuse(_socket: socket.socket, address: tuple[str, int]) -> None:
        addresses.append(address[0])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return addresses


def try_url(url: str) -> None:
    try:
        target = parse_target(url)
    except ValueError:
        return
    assert forward(target, b"{}", {}).status is None


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("host", WRITTEN_HOSTS)
def test_only_a_plain_name_or_address_of_this_machine_is_connected_to(
    host: str, scheme: str, connected: list[str], attack_table: AttackTable
) -> None:
    try_url(f"{scheme}://{host}/hook")
    elsewhere = [address for address in connected if not ip_address(address).is_loopback]
    attack_table.add("hosts to forward events to, as written", 1, len(elsewhere))
    assert elsewhere == []
    assert bool(connected) == (host in ALLOWED)


@pytest.mark.parametrize(
    "address", [text for reason, texts in DENIED.items() for text in texts if reason != "loopback"]
)
@pytest.mark.parametrize("beside", [[], ["127.0.0.1"]], ids=["alone", "beside loopback"])
def test_localhost_that_leads_elsewhere_is_not_connected_to(
    address: str,
    beside: list[str],
    connected: list[str],
    attack_table: AttackTable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, 80)) for each in (*beside, address)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    result = forward(LOCALHOST, b"{}", {})
    attack_table.add("addresses that localhost resolves to", 1, len(connected))
    assert (connected, result.status) == ([], None)
    assert result.problem == "localhost leads to another machine: not sent"


@pytest.mark.parametrize(
    "url",
    [
        *("ftp://127.0.0.1/", "file:///etc/passwd", "//127.0.0.1/", "127.0.0.1:3000", "http:"),
        *("http://127.0.0.1:0/", "http://127.0.0.1:65536/", "http://127.0.0.1:x/", "http://[::1/"),
        *("http://:80/", "gopher://localhost:11211/_stats", "http://localhost@127.0.0.1/"),
    ],
)
def test_no_other_url_is_connected_to(url: str, connected: list[str]) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_target(url)
    assert connected == []
