"""A client that sends one POST to a URL that a tenant chose.

Every address of the host is checked, and connections go to a checked address, so that DNS cannot
return another one in between. The certificate must still match the host name. Connections are kept
open for the next POSTs to the same host and port, while DNS names their address.

`ipaddress.is_global` is not sufficient: it accepts NAT64, 6to4, IPv4-compatible and site-local
addresses, which can all lead to internal hosts. This module therefore lists every denied network,
and allows IPv6 only inside 2000::/3, the one block that IANA assigns for global unicast.

Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries; for 168.63.129.16, "What is IP
address 168.63.129.16?", Microsoft Azure documentation.
"""

import asyncio
import os
import socket
import ssl
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from threading import Thread
from typing import Literal, NamedTuple
from urllib.parse import quote

import certifi
import h11

from worker.errors import Transient
from worker.webhooks.webhook_connection import (
    Address,
    Connection,
    IdleConnections,
    WebhookResponse,
)
from worker.webhooks.webhook_settings import WebhookSettings
from worker.webhooks.webhook_urls import UrlViolation, WebhookUrl, parse_webhook_url

GLOBAL_UNICAST = IPv6Network("2000::/3")
LOOPBACK = "loopback"

# The first match gives the reason, so a network comes before any larger one that contains it.
_DENIED: tuple[tuple[IPv4Network | IPv6Network, str], ...] = tuple(
    (ip_network(network), reason)
    for network, reason in (
        ("0.0.0.0/8", "this network"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "carrier-grade NAT"),
        ("127.0.0.0/8", LOOPBACK),
        ("168.63.129.16/32", "Azure host"),
        ("169.254.0.0/16", "link-local or instance metadata"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "protocol assignments"),
        ("192.0.2.0/24", "documentation"),
        ("192.88.99.0/24", "6to4 relay"),
        ("192.168.0.0/16", "private"),
        ("198.18.0.0/15", "benchmarking"),
        ("198.51.100.0/24", "documentation"),
        ("203.0.113.0/24", "documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved or broadcast"),
        ("::/128", "unspecified"),
        ("::1/128", LOOPBACK),
        ("::/96", "IPv4-compatible"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("::ffff:0:0:0/96", "IPv4-translated (SIIT)"),
        ("64:ff9b::/96", "NAT64"),
        ("64:ff9b:1::/48", "local NAT64"),
        ("100::/64", "discard"),
        ("2001::/32", "Teredo"),
        ("2001::/23", "protocol assignments"),
        ("2001:db8::/32", "documentation"),
        ("2002::/16", "6to4"),
        ("3fff::/20", "documentation"),
        ("5f00::/16", "segment routing"),
        ("fc00::/7", "unique local or instance metadata"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "site-local"),
        ("ff00::/8", "multicast"),
    )
)


def address_denial_reason(address: Address, *, development: bool = False) -> str | None:
    """Return the reason why webhooks to this address are denied, or None if they are allowed.

    With development, the loopback addresses 127.0.0.0/8 and ::1 are allowed, but no other form of
    them, such as an IPv4-mapped one.
    """
    reason = next((reason for network, reason in _DENIED if address in network), None)
    if reason is None and isinstance(address, IPv6Address) and address not in GLOBAL_UNICAST:
        reason = "not global unicast"
    return None if development and reason == LOOPBACK else reason


Resolver = Callable[[str, int], Sequence[Address]]
Reason = Literal[
    "url_refused", "address_denied", "dns_failed", "timed_out", "connection_failed", "tls_failed"
]

TIMEOUT = timedelta(seconds=15)
DNS_LIFETIME = timedelta(seconds=10)
_MAX_RESOLVED = 256
_URL_CHARACTERS = "%!$&'()*+,/:;=?@[]"  # beside letters, digits and -._~ (RFC 3986)


class WebhookFailure(Transient):
    """No response was received. `reason` is a stable code; the message names only the host."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class TraceStep(NamedTuple):
    """A step of an exchange, and how long it took.

    The detail shows no path of a URL, and no body. It shows names in the endpoint's certificate.
    """

    name: str  # dns, address, connect, tls or response
    detail: str
    seconds: float | None = None


class _Exchange(NamedTuple):
    """A POST, and the steps that it went through."""

    endpoint: WebhookUrl
    body: bytes
    headers: Mapping[str, str]
    trace: list[TraceStep]

    @property
    def origin(self) -> str:
        """The scheme, host and port. Connections and addresses are not shared with another one."""
        return f"{self.endpoint.scheme}://{self.endpoint.authority}"

    @property
    def head(self) -> h11.Request:
        own = {"Host": self.endpoint.authority, "Content-Length": str(len(self.body))}
        headers = {"User-Agent": "valetkey", **self.headers, **own}
        target = quote(self.endpoint.target, safe=_URL_CHARACTERS)
        return h11.Request(method="POST", target=target, headers=list(headers.items()))


def resolve_host(host: str, port: int) -> list[Address]:
    """Return all addresses of a host, unchecked, in the order to try them."""
    results = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(sockaddr[0]) for *_, sockaddr in results]


class WebhookClient:
    """A client without redirects, proxies and cookies, for any number of threads.

    `development` allows http URLs and loopback addresses. `ssl_context` replaces the default
    certificate authorities. `timeout` applies to the whole exchange, including name resolution.
    Hosts are resolved, and their addresses checked, again after `dns_lifetime`.

    One event loop runs all exchanges. Its thread ends with the client, and does not survive a fork.
    """

    def __init__(
        self,
        *,
        development: bool = False,
        resolve: Resolver = resolve_host,
        ssl_context: ssl.SSLContext | None = None,
        timeout: timedelta = TIMEOUT,
        dns_lifetime: timedelta = DNS_LIFETIME,
    ) -> None:
        self._development = development
        self._resolve = resolve
        self._ssl_context = ssl_context or ssl.create_default_context(cafile=certifi.where())
        self._timeout = timeout.total_seconds()
        self._dns_lifetime = dns_lifetime.total_seconds()
        self._resolved: dict[str, tuple[float, Sequence[Address]]] = {}
        self._idle = IdleConnections()
        self._loop = asyncio.new_event_loop()
        Thread(target=_run, args=(self._loop,), name="webhooks", daemon=True).start()
        weakref.finalize(self, _stop, self._loop, self._idle).atexit = False

    def post(
        self,
        url: str,
        body: bytes,
        headers: Mapping[str, str],
        trace: list[TraceStep] | None = None,
    ) -> WebhookResponse:
        """Send one POST and return its response, whatever the status.

        Appends the steps to trace, also if they fail. Raises WebhookFailure if the URL is refused
        or no response is received.
        """
        endpoint = parse_webhook_url(url, development=self._development)
        if isinstance(endpoint, UrlViolation):
            raise WebhookFailure("url_refused", endpoint.value)
        exchange = _Exchange(endpoint, body, headers, [] if trace is None else trace)
        response = self._post_with_timeout(exchange)
        return asyncio.run_coroutine_threadsafe(response, self._loop).result()

    async def _post_with_timeout(self, exchange: _Exchange) -> WebhookResponse:
        # With a timeout for each read, an endpoint that sends a byte per second could occupy the
        # worker for hours.
        try:
            async with asyncio.timeout(self._timeout):
                return await self._post(exchange, await self._allowed_addresses(exchange))
        except TimeoutError:
            detail = f"{exchange.endpoint.authority} took longer than {self._timeout:g} s"
            raise WebhookFailure("timed_out", detail) from None

    async def _allowed_addresses(self, exchange: _Exchange) -> Sequence[Address]:
        """Return the addresses of a host. Raises WebhookFailure if one of them is denied."""
        start = self._loop.time()
        expires_at, addresses = self._resolved.pop(exchange.origin, (start, ()))
        if start >= expires_at:
            addresses = await self._resolve_addresses(exchange.endpoint)
            expires_at = start + self._dns_lifetime
            detail = f"addresses of {exchange.endpoint.host}: {len(addresses)}"
            exchange.trace.append(TraceStep("dns", detail, self._loop.time() - start))
            self._check(addresses, exchange)
        self._resolved[exchange.origin] = expires_at, addresses
        if len(self._resolved) > _MAX_RESOLVED:
            del self._resolved[next(iter(self._resolved))]
        return addresses

    async def _resolve_addresses(self, endpoint: WebhookUrl) -> Sequence[Address]:
        # getaddrinfo cannot be interrupted: after the timeout its thread stays alive until it
        # returns.
        executor = ThreadPoolExecutor(max_workers=1)
        try:
            addresses = await self._loop.run_in_executor(
                executor, self._resolve, endpoint.host, endpoint.port
            )
        except socket.gaierror:
            addresses = []
        finally:
            executor.shutdown(wait=False)
        if not addresses:
            detail = f"{endpoint.authority} does not resolve to any address"
            raise WebhookFailure("dns_failed", detail)
        return addresses

    def _check(self, addresses: Sequence[Address], exchange: _Exchange) -> None:
        reasons = [
            address_denial_reason(address, development=self._development) for address in addresses
        ]
        for address, reason in zip(addresses, reasons, strict=True):
            allowed = "loopback, in development" if address.is_loopback else "public"
            verdict = f"allowed ({allowed})" if reason is None else f"denied ({reason})"
            exchange.trace.append(TraceStep("address", f"{address}: {verdict}"))
        if reason := next(filter(None, reasons), None):
            detail = f"{exchange.endpoint.authority} resolves to a denied address ({reason})"
            raise WebhookFailure("address_denied", detail)

    async def _post(self, exchange: _Exchange, addresses: Sequence[Address]) -> WebhookResponse:
        connection = self._idle.take(exchange.origin, addresses)
        if connection is not None:
            detail = f"{connection.address} by a kept connection"
            exchange.trace.append(TraceStep("connect", detail))
            try:
                return await self._send(connection, exchange)
            except WebhookFailure:
                # A server may close an idle connection while a request is on its way. That is no
                # failure of the endpoint, and a webhook may be sent twice. A new connection was
                # not idle: this happens once.
                if not connection.is_silent:
                    raise
        return await self._send(await self._connect(exchange, addresses), exchange)

    async def _connect(self, exchange: _Exchange, addresses: Sequence[Address]) -> Connection:
        """Connect to the first address that can be reached: there may be no route for IPv6."""
        endpoint = exchange.endpoint
        reason: Reason = "connection_failed"
        for address in addresses:
            start = self._loop.time()
            place = f"{address} port {endpoint.port}"
            try:
                connection = await self._open(exchange, address)
            except OSError as error:
                reason, problem = _describe_failure(error)
                seconds = self._loop.time() - start
                exchange.trace.append(TraceStep("connect", f"{place}: {problem}", seconds))
            else:
                exchange.trace.append(TraceStep("connect", place, self._loop.time() - start))
                if endpoint.scheme == "https":
                    detail = _describe_tls(connection.transport)
                    exchange.trace.append(TraceStep("tls", detail))
                return connection
        raise WebhookFailure(reason, f"no connection to {endpoint.authority} could be established")

    async def _open(self, exchange: _Exchange, address: Address) -> Connection:
        """Connect to an address, and check the certificate. Raises OSError."""
        endpoint, is_tls = exchange.endpoint, exchange.endpoint.scheme == "https"
        async with asyncio.timeout(self._timeout / 3):
            _, connection = await self._loop.create_connection(
                lambda: Connection(exchange.origin, address, self._idle),
                str(address),
                endpoint.port,
                ssl=self._ssl_context if is_tls else None,
                server_hostname=endpoint.host if is_tls else None,
            )
        return connection

    async def _send(self, connection: Connection, exchange: _Exchange) -> WebhookResponse:
        start = self._loop.time()
        try:
            response = await connection.send(exchange.head, exchange.body)
        except (OSError, h11.RemoteProtocolError):
            detail = f"{exchange.endpoint.authority} sent no complete HTTP response"
            raise WebhookFailure("connection_failed", detail) from None
        finally:
            self._idle.keep(connection)
        wait = response.retry_after
        detail = f"status {response.status}" + ("" if wait is None else f", retry after {wait}")
        exchange.trace.append(TraceStep("response", detail, self._loop.time() - start))
        return response


def _run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_forever()
    loop.close()


def _stop(loop: asyncio.AbstractEventLoop, idle: IdleConnections) -> None:
    def stop() -> None:
        idle.close()
        loop.call_soon(loop.stop)  # after the sockets are closed

    loop.call_soon_threadsafe(stop)


def _describe_failure(error: OSError) -> tuple[Reason, str]:
    """Return why there is no connection: the reason, and the same in words."""
    match error:
        case TimeoutError():
            return "timed_out", "no connection in time"
        case ssl.SSLCertVerificationError():
            return "tls_failed", f"certificate verify failed: {error.verify_message}"
        case ssl.SSLError():
            return "tls_failed", f"TLS failed: {error.reason}"
    return "connection_failed", os.strerror(error.errno) if error.errno else type(error).__name__


def _describe_tls(transport: asyncio.Transport) -> str:
    certificate = transport.get_extra_info("peercert")
    subject = [pair for pairs in certificate["subject"] for pair in pairs]
    names = certificate.get("subjectAltName") or subject
    text = ", ".join(str(name) for _, name in names[:3])
    version = transport.get_extra_info("ssl_object").version()
    return f"{version}, certificate of {text} until {certificate['notAfter']}"


def webhook_client() -> WebhookClient:
    """Return the client of a process. Its TLS context takes time: create one on first use."""
    return WebhookClient(development=WebhookSettings().development)
