"""A closed client leaves no connection open, however it was closed."""

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from tests.support.fakes.fake_service import running_fake_service
from tests.support.servers.certificates import CertificateAuthority
from tests.support.servers.event_loop import (
    async_client,
    collect_leaks,
    in_event_loop,
    wait_until_async,
)
from tests.support.servers.tls_proxy import running_tls_proxy

CLIENT_NAME = "test-open-connections"


def open_connections(broker: str) -> int:
    """Return the number of connections that clients with CLIENT_NAME have to the result store."""
    with redis.Redis.from_url(broker) as server:
        return sum(client["name"] == CLIENT_NAME for client in server.client_list())


async def open_both_connections(client: Any) -> None:
    """Open the connection for lookups too; the client already listens on the other one."""
    await client._dispatcher._transport.look_up(["a"])


def test_closing_a_connection_does_not_wait_until_a_tls_server_closes_it(
    broker: str, tmp_path: Path
) -> None:
    async def download(result_url: str) -> None:
        async with async_client(broker, result_url) as client:
            await client.download("reports", "a.pdf").result(10)
            await open_both_connections(client)

    authority = CertificateAuthority(tmp_path)
    port = urlsplit(broker).port or 6379
    with (
        running_fake_service(broker),
        running_tls_proxy(authority.server_context("localhost"), port, closes=False) as proxy,
    ):
        url = f"rediss://localhost:{proxy.port}/1?ssl_ca_certs={authority.file}"
        asyncio.run(download(url))
        assert collect_leaks() == []


@pytest.mark.parametrize("turn_count", range(1, 10))
@in_event_loop
async def test_a_close_that_is_cancelled_closes_every_connection(
    broker: str, turn_count: int
) -> None:
    result_url = f"{broker}?client_name={CLIENT_NAME}"
    async with async_client(broker, result_url) as client:
        with running_fake_service(broker):
            await client.download("reports", "a.pdf").result(10)
        await open_both_connections(client)
        assert open_connections(broker) == 2
        client.download("reports", "b.pdf")  # makes the client send and listen while it is closed
        closing = asyncio.create_task(client.close())
        for _ in range(turn_count):
            await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert closing.cancelled()
        await wait_until_async(lambda: open_connections(broker) == 0)
