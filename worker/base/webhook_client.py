"""A client that sends one POST to a URL that a tenant chose.

The host name is resolved once, every address is checked, and the connection goes to a checked
address, so that DNS cannot return another address in between. The certificate must still match the
host name.

`ipaddress.is_global` is not sufficient: it accepts NAT64, 6to4, IPv4-compatible and site-local
addresses, which can all lead to internal hosts. This module therefore lists every denied network,
and allows IPv6 only inside 2000::/3, the one block that IANA assigns for global unicast.

Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries; for 168.63.129.16, "What is IP
address 168.63.129.16?", Microsoft Azure documentation.
"""

import asyncio
import logging
import re
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from email.utils import parsedate_to_datetime
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any, Literal

import httpx

from worker.core.callback_urls import UrlViolation, WebhookUrl, parse_webhook_url
from worker.errors import Transient

Address = IPv4Address | IPv6Address

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
MAX_RESPONSE_BYTES = 64 * 1024

# Nine digits of seconds are 31 years: longer than any delay, and within timedelta's range.
_SECONDS = re.compile(r"[0-9]{1,9}")

# At INFO, httpx logs every URL with its query string, which may contain a secret.
logging.getLogger("httpx").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The endpoint's response. `retry_after` is the header's value, without an upper limit."""

    status: int
    retry_after: timedelta | None


class WebhookFailure(Transient):
    """No response was received. `reason` is a stable code; the message names only the host."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def resolve_host(host: str, port: int) -> list[Address]:
    """Return all addresses of a host, unchecked, in the order to try them."""
    results = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(sockaddr[0]) for *_, sockaddr in results]


class WebhookClient:
    """A client without redirects, proxies, cookies or persistent connections.

    `development` allows http URLs and loopback addresses. `ssl_context` replaces the default
    certificate authorities. `timeout` applies to the whole exchange, including name resolution.
    """

    def __init__(
        self,
        *,
        development: bool = False,
        resolve: Resolver = resolve_host,
        ssl_context: ssl.SSLContext | None = None,
        timeout: timedelta = TIMEOUT,
    ) -> None:
        self._development = development
        self._resolve = resolve
        self._ssl_context = ssl_context or httpx.create_ssl_context(trust_env=False)
        self._timeout = timeout.total_seconds()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> WebhookResponse:
        """Send one POST and return its response, whatever the status.

        Raises WebhookFailure if the URL is refused or no response is received.
        """
        endpoint = parse_webhook_url(url, development=self._development)
        if isinstance(endpoint, UrlViolation):
            raise WebhookFailure("url_refused", endpoint.value)
        return asyncio.run(self._post_with_timeout(endpoint, body, headers))

    async def _post_with_timeout(
        self, endpoint: WebhookUrl, body: bytes, headers: Mapping[str, str]
    ) -> WebhookResponse:
        # With a timeout for each read, an endpoint that sends a byte per second could occupy the
        # worker for hours.
        try:
            async with asyncio.timeout(self._timeout):
                addresses = await self._allowed_addresses(endpoint)
                return await self._post_to_first_reachable(addresses, endpoint, body, headers)
        except TimeoutError:
            detail = f"{endpoint.authority} took longer than {self._timeout:g} s"
            raise WebhookFailure("timed_out", detail) from None

    async def _allowed_addresses(self, endpoint: WebhookUrl) -> Sequence[Address]:
        addresses = await self._resolve_addresses(endpoint)
        for address in addresses:
            if reason := address_denial_reason(address, development=self._development):
                detail = f"{endpoint.authority} resolves to a denied address ({reason})"
                raise WebhookFailure("address_denied", detail)
        return addresses

    async def _resolve_addresses(self, endpoint: WebhookUrl) -> Sequence[Address]:
        # getaddrinfo cannot be interrupted: after the timeout its thread stays alive until it
        # returns.
        executor = ThreadPoolExecutor(max_workers=1)
        try:
            addresses = await asyncio.get_running_loop().run_in_executor(
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

    async def _post_to_first_reachable(
        self,
        addresses: Sequence[Address],
        endpoint: WebhookUrl,
        body: bytes,
        headers: Mapping[str, str],
    ) -> WebhookResponse:
        reason: Reason = "connection_failed"
        for address in addresses:
            try:
                return await self._send(address, endpoint, body, headers)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                # Nothing was sent yet, so try the next address. A host without IPv6 needs this.
                reason = _connection_failure_reason(error)
            except httpx.TransportError:
                detail = f"{endpoint.authority} sent no complete HTTP response"
                raise WebhookFailure("connection_failed", detail) from None
        raise WebhookFailure(reason, f"no connection to {endpoint.authority} could be established")

    async def _send(
        self, address: Address, endpoint: WebhookUrl, body: bytes, headers: Mapping[str, str]
    ) -> WebhookResponse:
        async with (
            AsyncExitStack() as connections,
            httpx.AsyncClient(
                verify=self._ssl_context,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(None, connect=self._timeout / 3),
            ) as client,
            client.stream(
                "POST",
                _url_with_address(address, endpoint),
                content=body,
                headers={"User-Agent": "valetkey", **headers, "Host": endpoint.authority},
                # The host name to send in the handshake and to check the certificate against.
                extensions={
                    "sni_hostname": endpoint.host,
                    "trace": partial(_close_at_exit, connections),
                },
            ) as response,
        ):
            await _discard_body(response)
            retry_after = parse_retry_after(
                response.headers.get("retry-after"), response.headers.get("date")
            )
            return WebhookResponse(response.status_code, retry_after)


def _url_with_address(address: Address, endpoint: WebhookUrl) -> str:
    host = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - IPv6
    return f"{endpoint.scheme}://{host}:{endpoint.port}{endpoint.target}"


async def _close_at_exit(connections: AsyncExitStack, event: str, info: dict[str, Any]) -> None:
    """Close each connection that httpcore reports at the end of the exchange.

    httpcore closes it itself, unless the timeout cancels the TLS handshake.
    """
    if event == "connection.connect_tcp.complete":
        connections.push_async_callback(info["return_value"].aclose)


async def _discard_body(response: httpx.Response) -> None:
    """Read a short body to its end, so that the connection closes cleanly; stop at the limit."""
    size = 0
    async for chunk in response.aiter_raw():  # raw, to avoid decompressing it
        size += len(chunk)
        if size >= MAX_RESPONSE_BYTES:
            return


def parse_retry_after(retry_after: str | None, date: str | None) -> timedelta | None:
    """Parse a Retry-After header (RFC 9110, 10.2.3). Returns None if it is absent or invalid.

    `date` is the Date header of the same response. A Retry-After that is a date is measured from
    it, so the result depends neither on the local clock nor on a wrong clock at the endpoint.
    """
    if retry_after is None:
        return None
    if _SECONDS.fullmatch(retry_after):
        return timedelta(seconds=int(retry_after))
    try:
        return parsedate_to_datetime(retry_after) - parsedate_to_datetime(date or "")
    except (TypeError, ValueError, OverflowError):
        # TypeError: only one of the two has a time zone. OverflowError: a number is too large.
        return None


def _connection_failure_reason(error: httpx.TransportError) -> Reason:
    if isinstance(error, httpx.ConnectTimeout):
        return "timed_out"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__context__  # not __cause__, which httpcore does not keep
    return "connection_failed" if cause is None else "tls_failed"
