"""Cancelling, closing and losing a connection do not affect other requests."""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator
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
from tests.support.servers.proxies import running_tls_proxy
from valetkey import NoAnswer
from valetkey.aio import MessageFeed
from valetkey.wire.pending import PendingMessage

KEYS = [f"k/{number}" for number in range(50)]


def publisher_threads() -> int:
    return sum(thread.name.startswith("valetkey") for thread in threading.enumerate())


@in_event_loop
async def test_cancelling_one_wait_affects_no_other_and_withdraws_what_nobody_waits_for(
    broker: str,
) -> None:
    async with async_client(broker) as client:
        handle = client.download("reports", "a.pdf")
        waits = [asyncio.ensure_future(handle.result()) for _ in range(3)]
        other = asyncio.ensure_future(client.download("reports", "b.pdf").result())
        await wait_until_async(
            lambda: handle.batch.remaining and client._dispatcher._engine.unanswered
        )
        waits.pop().cancel()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await client.download("reports", "c.pdf")
        with running_fake_service(broker) as service:
            assert [grant.key for grant in await asyncio.gather(*waits, other)] == [
                "a.pdf",
                "a.pdf",
                "b.pdf",
            ]
            await client.flush(5)
    keys = {message["items"][0]["key"] for _, message in service.received}
    assert keys == {"a.pdf", "b.pdf"}


@in_event_loop
async def test_a_timeout_of_one_wait_does_not_affect_the_others(broker: str) -> None:
    async with async_client(broker) as client:
        handle = client.download("reports", "a.pdf")
        patient = asyncio.ensure_future(handle.result(10))
        with pytest.raises(
            NoAnswer, match=r"within 0.1 s to 1 of 1 items: no worker takes it from"
        ):
            await handle.result(0.1)
        with running_fake_service(broker):
            assert (await patient).key == "a.pdf"


@in_event_loop
async def test_one_task_and_one_thread_serve_any_number_of_waits(broker: str) -> None:
    before = publisher_threads()
    async with async_client(broker) as client:
        handles = [client.download("reports", key) for key in KEYS]
        waits = [asyncio.ensure_future(handle.result()) for handle in handles]
        await wait_until_async(lambda: client._dispatcher._engine.has_reached_broker)
        assert publisher_threads() - before == 1
        # The dispatcher's task and this one; while it sends, wait_for of Python 3.11 has one more.
        await wait_until_async(lambda: len(asyncio.all_tasks()) - len(waits) == 2)
        with running_fake_service(broker):
            await asyncio.gather(*waits)
        await wait_until_async(lambda: len(asyncio.all_tasks()) == 1)


@in_event_loop
async def test_closing_the_client_ends_every_wait_with_an_error(broker: str) -> None:
    async def keys() -> AsyncIterator[str]:
        await asyncio.sleep(60)
        yield "a"

    async with async_client(broker) as client:
        batch = client.download_many("reports", keys(), total=1)
        waits = [
            asyncio.ensure_future(client.download("reports", "a.pdf").result()),
            asyncio.ensure_future(anext(aiter(batch))),
            asyncio.ensure_future(client.usage()),
            asyncio.ensure_future(client.flush()),
        ]
        await asyncio.sleep(0.05)
    for wait in waits:
        with pytest.raises(NoAnswer, match="the client was closed"):
            await wait
    with pytest.raises(RuntimeError, match="is closed"):
        client.download("reports", "a.pdf")
    await client.close()


@in_event_loop
async def test_a_feed_that_is_closed_while_it_reads_raises_no_error() -> None:
    async def messages() -> AsyncGenerator[PendingMessage, None]:
        await asyncio.sleep(60)
        yield PendingMessage("a", {})

    feed = MessageFeed(messages(), on_ready=lambda: None)
    assert next(feed) is None
    await feed.close()
    assert next(feed) is None


@in_event_loop
async def test_the_client_can_be_closed_at_any_moment(broker: str) -> None:
    for turn_count in range(60):
        async with asyncio.timeout(5), async_client(broker) as client:
            client.download_many("reports", KEYS, chunk_size=10)
            for _ in range(turn_count):
                await asyncio.sleep(0)


def disconnect_listener(broker: str, client: Any) -> None:
    """Make the server close the connection that a client listens on."""
    connection = client._dispatcher._transport._pubsub.connection
    with redis.Redis.from_url(broker) as server:
        server.client_kill("{}:{}".format(*connection._writer.get_extra_info("sockname")))


@in_event_loop
async def test_a_disconnected_listener_connects_again(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    async with async_client(broker) as client:
        waits = [asyncio.ensure_future(client.download("r", key).result(9)) for key in KEYS[:5]]
        await wait_until_async(lambda: client._dispatcher._engine.has_reached_broker)
        disconnect_listener(broker, client)
        with running_fake_service(broker):
            assert [grant.key for grant in await asyncio.gather(*waits)] == KEYS[:5]


@in_event_loop
async def test_a_connection_that_was_lost_while_idle_delays_nothing(
    broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("valetkey.delivery.retransmit.FIRST_INTERVAL", 30.0)
    with running_fake_service(broker):
        async with async_client(broker) as client:
            await client.download("reports", "a.pdf")
            disconnect_listener(broker, client)
            assert (await client.download("reports", "b.pdf").result(5)).key == "b.pdf"


def test_a_client_belongs_to_one_loop(broker: str) -> None:
    clients: list[Any] = []

    @in_event_loop
    async def first() -> None:
        clients.append(await async_client(broker).__aenter__())
        clients[0].download("reports", "a.pdf")
        await clients[0].close()
        clients[0]._dispatcher._is_closed = False

    @in_event_loop
    async def second() -> None:
        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            clients[0].download("reports", "b.pdf")

    first()
    second()
    with pytest.raises(RuntimeError, match="no running event loop"):
        clients[0].download("reports", "b.pdf")


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
