"""One POST to an address that a stranger chose.

The name is resolved once, every answer is judged, and the connection goes to a judged address, so
that DNS cannot answer differently in between. The name still decides what the certificate must say.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import ip_address
from typing import Literal

import httpx

from worker.core.webhooks.addresses import Address, denial_reason
from worker.core.webhooks.retry import parse_retry_after
from worker.core.webhooks.urls import UrlRule, WebhookUrl, parse_webhook_url
from worker.errors import Transient

Resolver = Callable[[str, int], Sequence[Address]]
Reason = Literal[
    "url_refused",
    "address_denied",
    "dns_failed",
    "timed_out",
    "connection_failed",
    "tls_failed",
]

DEADLINE = timedelta(seconds=15)
MAX_RESPONSE_BYTES = 64 * 1024

# httpx logs every URL, with its query, at INFO.
logging.getLogger("httpx").setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """What the endpoint answered; `retry_after` is its own wish, not yet capped."""

    status: int
    retry_after: timedelta | None


class WebhookFailure(Transient):
    """No answer came; `reason` is a stable code, the message names the host and nothing secret."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


def resolve_host(host: str, port: int) -> list[Address]:
    """All addresses that the system's resolver knows for a host, in the order to try them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(sockaddr[0]) for *_, sockaddr in found]


class WebhookClient:
    """Sends webhooks without redirects, proxies, cookies, or connections that outlive a request.

    `development` allows http and loopback; `trust` replaces the certificate authorities; `deadline`
    is for the whole exchange, name resolution included.
    """

    def __init__(
        self,
        *,
        development: bool = False,
        resolve: Resolver = resolve_host,
        trust: ssl.SSLContext | None = None,
        deadline: timedelta = DEADLINE,
    ) -> None:
        self._development = development
        self._resolve = resolve
        self._trust = trust or httpx.create_ssl_context(trust_env=False)
        self._seconds = deadline.total_seconds()

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> WebhookResponse:
        """Send one POST and return its status, whatever it is; raises Undelivered if none came."""
        endpoint = parse_webhook_url(url, development=self._development)
        if isinstance(endpoint, UrlRule):
            raise WebhookFailure("url_refused", endpoint.value)
        return asyncio.run(self._within_deadline(endpoint, body, headers))

    async def _within_deadline(
        self, endpoint: WebhookUrl, body: bytes, headers: Mapping[str, str]
    ) -> WebhookResponse:
        # A timeout for each read would let a byte a second hold the worker for hours.
        try:
            async with asyncio.timeout(self._seconds):
                addresses = await self._permitted_addresses(endpoint)
                return await self._first_reply(addresses, endpoint, body, headers)
        except TimeoutError:
            detail = f"{endpoint.authority} took longer than {self._seconds:g} s"
            raise WebhookFailure("timed_out", detail) from None

    async def _permitted_addresses(self, endpoint: WebhookUrl) -> Sequence[Address]:
        addresses = await self._resolved(endpoint)
        for address in addresses:
            if reason := denial_reason(address, development=self._development):
                detail = f"{endpoint.authority} resolves to a denied address ({reason})"
                raise WebhookFailure("address_denied", detail)
        return addresses

    async def _resolved(self, endpoint: WebhookUrl) -> Sequence[Address]:
        # getaddrinfo cannot be interrupted: past the deadline its thread is left to end by itself.
        lookup = ThreadPoolExecutor(max_workers=1)
        try:
            addresses = await asyncio.get_running_loop().run_in_executor(
                lookup, self._resolve, endpoint.host, endpoint.port
            )
        except socket.gaierror:
            addresses = []
        finally:
            lookup.shutdown(wait=False)
        if not addresses:
            raise WebhookFailure("dns_failed", f"{endpoint.authority} does not resolve")
        return addresses

    async def _first_reply(
        self,
        addresses: Sequence[Address],
        endpoint: WebhookUrl,
        body: bytes,
        headers: Mapping[str, str],
    ) -> WebhookResponse:
        reason: Reason = "connection_failed"
        for address in addresses:
            try:
                return await self._exchange(address, endpoint, body, headers)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                # Nothing was sent, so the next address may be tried: a host without IPv6 needs it.
                reason = _connect_reason(error)
            except httpx.TransportError:
                detail = f"{endpoint.authority} broke the exchange off"
                raise WebhookFailure("connection_failed", detail) from None
        raise WebhookFailure(reason, f"{endpoint.authority} was not reached")

    async def _exchange(
        self, address: Address, endpoint: WebhookUrl, body: bytes, headers: Mapping[str, str]
    ) -> WebhookResponse:
        async with (
            httpx.AsyncClient(
                verify=self._trust,
                trust_env=False,
                follow_redirects=False,
                timeout=httpx.Timeout(None, connect=self._seconds / 3),
            ) as client,
            client.stream(
                "POST",
                _pinned(address, endpoint),
                content=body,
                headers={"User-Agent": "valetkey", **headers, "Host": endpoint.authority},
                # The name that is asked for, and that the certificate is checked against.
                extensions={"sni_hostname": endpoint.host},
            ) as response,
        ):
            await _discard(response)
            wish = response.headers.get("retry-after"), response.headers.get("date")
            return WebhookResponse(response.status_code, parse_retry_after(*wish))


def _pinned(address: Address, endpoint: WebhookUrl) -> str:
    host = f"[{address}]" if address.version == 6 else str(address)  # noqa: PLR2004 - IPv6
    return f"{endpoint.scheme}://{host}:{endpoint.port}{endpoint.target}"


async def _discard(response: httpx.Response) -> None:
    """Read a short response to its end, which spares the endpoint a reset, and cut a long one."""
    size = 0
    async for part in response.aiter_raw():  # raw: what is discarded is not worth decompressing
        size += len(part)
        if size >= MAX_RESPONSE_BYTES:
            return


def _connect_reason(error: httpx.TransportError) -> Reason:
    if isinstance(error, httpx.ConnectTimeout):
        return "timed_out"
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, ssl.SSLError):
        cause = cause.__context__  # not __cause__, which httpcore drops on the way
    return "connection_failed" if cause is None else "tls_failed"
