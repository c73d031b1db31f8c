"""Connections of redis-py in an event loop that close at once."""

from typing import Any

from redis.asyncio import Connection, Redis, SSLConnection
from redis.asyncio.connection import AbstractConnection


class _ClosingAtOnce(AbstractConnection):
    """A connection whose socket is closed when disconnect() returns to the event loop.

    redis-py itself closes most connections without waiting. With TLS, such a socket then stays open
    until the server answers, for up to 30 seconds, and is leaked if the loop ends before.
    """

    async def disconnect(self, *_: object, **details: Any) -> None:
        """Close the connection without waiting for the server."""
        writer = self._writer
        details.pop("nowait", None)
        try:
            await super().disconnect(True, **details)
        finally:
            if writer is not None:
                writer.transport.abort()


class _PlainConnection(_ClosingAtOnce, Connection):
    """A connection without TLS."""


class _TlsConnection(_ClosingAtOnce, SSLConnection):
    """A connection with TLS."""


def create_client(url: str, **options: Any) -> Redis:
    """Return a client like Redis.from_url() whose connections close at once."""
    client = Redis.from_url(url, **options)
    pool = client.connection_pool  # from_url() itself takes no class: the URL's scheme decides
    is_tls = issubclass(pool.connection_class, SSLConnection)
    pool.connection_class = _TlsConnection if is_tls else _PlainConnection
    return client
