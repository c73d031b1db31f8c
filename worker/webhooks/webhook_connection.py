"""HTTP/1.1 connections that send one POST after another, and bound what they read.

Each belongs to one origin and one address. Only the thread of their event loop may use them.
"""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address
from typing import cast

import h11

Address = IPv4Address | IPv6Address

MAX_RESPONSE_BYTES = 64 * 1024
"""The most bytes that are read in an exchange, with heads and framing."""
EXCERPT_BYTES = 200
IDLE_SECONDS = 60.0
MAX_IDLE_PER_ORIGIN = 4
MAX_IDLE = 256

# Nine digits of seconds are 31 years: longer than any delay, and within timedelta's range.
_SECONDS = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """The endpoint's response. `retry_after` is the header's value, without an upper limit.

    `excerpt` is the start of the body as it was sent: it may be compressed, or repeat secrets.
    """

    status: int
    retry_after: timedelta | None
    excerpt: bytes = field(default=b"", repr=False)

    @property
    def is_success(self) -> bool:
        """Return true if the endpoint took the webhook: redirects are failures too."""
        return self.status // 100 == 2  # noqa: PLR2004 - 2xx


class Connection(asyncio.Protocol):
    """An HTTP/1.1 connection to a checked address, for one exchange at a time.

    origin is the scheme, host and port that it belongs to. is_silent is true until the endpoint
    sends something after the last request.
    """

    transport: asyncio.Transport

    def __init__(self, origin: str, address: Address, idle: "IdleConnections") -> None:
        self.origin = origin
        self.address = address
        self.is_silent = True
        self._idle = idle
        self._http = h11.Connection(h11.CLIENT, MAX_RESPONSE_BYTES)
        self._exchange: asyncio.Future[WebhookResponse] | None = None
        self._head: WebhookResponse | None = None
        self._excerpt = b""
        self._received = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, after the TLS handshake."""
        self.transport = cast("asyncio.Transport", transport)

    async def send(self, request: h11.Request, body: bytes) -> WebhookResponse:
        """Send a request and return the response. Raises OSError and h11.RemoteProtocolError."""
        self._exchange = asyncio.get_running_loop().create_future()
        self._head, self._excerpt, self._received, self.is_silent = None, b"", 0, True
        events = (request, h11.Data(body), h11.EndOfMessage())
        self.transport.write(b"".join(self._http.send(event) or b"" for event in events))
        return await self._exchange

    def data_received(self, data: bytes) -> None:
        """Read a part of the response; no data is the end of the connection."""
        exchange = self._exchange
        if exchange is None or exchange.done():
            self.abort()  # it would be taken for the response to the next request
            return
        self.is_silent = self.is_silent and not data
        room = MAX_RESPONSE_BYTES - self._received
        self._received += len(data)
        try:
            self._http.receive_data(data[:room])
            self._read_events(exchange)
        except h11.RemoteProtocolError as error:
            exchange.set_exception(error)
        if self._received >= MAX_RESPONSE_BYTES and not exchange.done():
            self._finish(exchange)

    def _read_events(self, exchange: asyncio.Future[WebhookResponse]) -> None:
        while not exchange.done():
            match self._http.next_event():
                case h11.Response() as head:
                    headers = {name: value.decode("latin-1") for name, value in head.headers}
                    wait = parse_retry_after(headers.get(b"retry-after"), headers.get(b"date"))
                    self._head = WebhookResponse(head.status_code, wait)
                case h11.Data(data=data):
                    self._excerpt = (self._excerpt + data)[:EXCERPT_BYTES]
                case h11.EndOfMessage():
                    self._finish(exchange)
                case h11.InformationalResponse():
                    continue
                case _:
                    break

    def _finish(self, exchange: asyncio.Future[WebhookResponse]) -> None:
        if self._head is None:
            exchange.set_exception(ConnectionError("the response has no end"))
        else:
            exchange.set_result(replace(self._head, excerpt=self._excerpt))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the exchange: some responses end with their connection."""
        self._idle.discard(self)
        if self._exchange is not None and not self._exchange.done():
            if exc is None:
                self.data_received(b"")
            else:
                self._exchange.set_exception(exc)

    def begin_next(self) -> bool:
        """Get ready for the next request. Returns false if there cannot be one."""
        http = self._http
        is_complete = http.our_state is h11.DONE and http.their_state is h11.DONE
        is_exact = not http.trailing_data[0] and self._received < MAX_RESPONSE_BYTES
        if not is_complete or not is_exact:
            return False
        http.start_next_cycle()
        return not self.transport.is_closing()

    def abort(self) -> None:
        """Close the connection at once."""
        self._idle.discard(self)
        self.transport.abort()


class IdleConnections:
    """The connections that wait for their next request, the last used ones last."""

    def __init__(self) -> None:
        self._timers: dict[Connection, asyncio.TimerHandle] = {}

    def take(self, origin: str, addresses: Sequence[Address]) -> Connection | None:
        """Return a connection to one of the addresses, which is no longer idle."""
        for connection in reversed(self._timers):
            if connection.origin == origin and connection.address in addresses:
                self.discard(connection)
                return connection
        return None

    def keep(self, connection: Connection) -> None:
        """Keep a connection after an exchange, or close it."""
        of_origin = sum(each.origin == connection.origin for each in self._timers)
        if of_origin >= MAX_IDLE_PER_ORIGIN or not connection.begin_next():
            connection.abort()
            return
        if len(self._timers) >= MAX_IDLE:
            next(iter(self._timers)).abort()
        loop = asyncio.get_running_loop()
        self._timers[connection] = loop.call_later(IDLE_SECONDS, connection.abort)

    def discard(self, connection: Connection) -> None:
        """Forget a connection, if it is idle."""
        timer = self._timers.pop(connection, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self._timers):
            connection.abort()


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
        delay = parsedate_to_datetime(retry_after) - parsedate_to_datetime(date or "")
    except (TypeError, ValueError, OverflowError):
        # TypeError: only one of the two has a time zone. OverflowError: a number is too large.
        return None
    return max(delay, timedelta(0))
