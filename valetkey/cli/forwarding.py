"""Posts signed webhooks to a program on this machine, and to no other machine."""

import http.client
import socket
import ssl
import time
from collections.abc import Mapping
from contextlib import closing
from ipaddress import IPv4Network, IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from valetkey.delivery.causes import describe_cause

TIMEOUT_SECONDS = 15.0
"""The time that an endpoint has for a webhook of the service, too."""

_LOOPBACK = IPv4Network("127.0.0.0/8"), IPv6Address("::1")
_MAX_BODY = 64 * 1024  # bytes of a response that are read


class ForwardTarget(NamedTuple):
    """The URL of a program on this machine; path includes the query."""

    scheme: str
    host: str
    port: int
    path: str


class ForwardResult(NamedTuple):
    """The status of the program's response, or the problem if there is none, and the time."""

    status: int | None
    problem: str | None
    milliseconds: int

    @property
    def words(self) -> str:
        """The result in few words."""
        return self.problem or f"{self.status} in {self.milliseconds} ms"


class _NotThisMachine(OSError):
    """A name resolves to an address of another machine."""


def parse_target(url: str) -> ForwardTarget:
    """Parse the URL of a program on this machine. Raises ValueError for any other URL."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("this is not a URL like http://127.0.0.1:3000/hook") from None
    if not (url.isascii() and url.isprintable()) or " " in url or "\\" in url:
        raise ValueError("a URL has no spaces, backslashes or special characters")
    if parts.scheme not in {"http", "https"}:
        raise ValueError(
            "the URL must begin with http:// or https://, as in http://127.0.0.1:3000/hook"
        )
    if "@" in parts.netloc:
        raise ValueError("the URL must have no user name or password")
    if host != "localhost" and not _is_loopback(host):
        raise ValueError(
            "events are forwarded to this machine only: the host must be localhost, or an address "
            "like 127.0.0.1 or [::1]"
        )
    if port == 0:
        raise ValueError("0 is no port to connect to")
    default = 443 if parts.scheme == "https" else 80
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return ForwardTarget(parts.scheme, host, port or default, path)


def _is_loopback(host: str) -> bool:
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return address == _LOOPBACK[1] or address in _LOOPBACK[0]


def forward(target: ForwardTarget, body: bytes, headers: Mapping[str, str]) -> ForwardResult:
    """Post a webhook, and follow no redirect. A program that does not respond is a result."""
    start = time.monotonic()
    status, problem = None, None
    try:
        status = _post(target, body, headers)
    except _NotThisMachine:
        problem = f"{target.host} leads to another machine: not sent"
    except http.client.HTTPException:
        problem = "its response is not HTTP"
    except OSError as error:
        problem = describe_cause(error)
    return ForwardResult(status, problem, round((time.monotonic() - start) * 1_000))


def _post(target: ForwardTarget, body: bytes, headers: Mapping[str, str]) -> int:
    with closing(http.client.HTTPConnection(target.host, target.port)) as connection:
        connection.sock = _connect(target)
        connection.request("POST", target.path, body, {"User-Agent": "valetkey", **headers})
        response = connection.getresponse()
        response.read(_MAX_BODY)
        return response.status


def _connect(target: ForwardTarget) -> socket.socket:
    """Connect to an address that was checked: a name can lead elsewhere the next time."""
    found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
    addresses = [str(address[0]) for *_, address in found]
    if not all(map(_is_loopback, addresses)):
        raise _NotThisMachine
    for address in addresses:
        try:
            sock = socket.create_connection((address, target.port), TIMEOUT_SECONDS)
            break
        except OSError:
            if address == addresses[-1]:
                raise
    return _secure(sock, target)


def _secure(sock: socket.socket, target: ForwardTarget) -> socket.socket:
    if target.scheme == "http":
        return sock
    try:
        return ssl.create_default_context().wrap_socket(sock, server_hostname=target.host)
    except BaseException:
        sock.close()
        raise
