"""Connects a client in an event loop to the broker and the result store."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import redis
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from valetkey.delivery.redis_clients import (
    sentinel_errors,
    sentinel_options,
    server_options,
    verify_sentinel_answer,
)
from valetkey.delivery.transport import (
    NO_HEADERS,
    RESULT_PREFIX,
    SOCKET_TIMEOUT,
    UNSUBSCRIBE_BATCH,
    Headers,
    Publisher,
    Results,
    Servers,
)
from valetkey.errors import BrokerUnreachable
from valetkey.redis_urls import parse_sentinel_url

_LOOK_TIMEOUT = 1.0  # seconds: it only makes an error more precise


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


class _AskOnce(Retry):
    """Asks a sentinel once, as that of redis_clients does."""

    async def call_with_retry(self, *args: Any, **options: Any) -> Any:
        """Call; raises redis.ConnectionError and TimeoutError only."""
        with sentinel_errors():
            answer = await super().call_with_retry(*args, **options)
            verify_sentinel_answer(answer)
            return answer


class AsyncTransport:
    """The broker and the result store of one client; for one task at a time, except wake().

    Celery publishes synchronously, so one thread beside the loop does that until close(). Every
    method raises BrokerUnreachable, within seconds, if its server does not answer.
    """

    def __init__(self, servers: Servers) -> None:
        self._servers = servers
        self._publisher = Publisher(servers)
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="valetkey-publisher")
        # Reopens a closed connection; does not retry a silent one, which has used enough time.
        retry_once = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self._redis = _connect(servers.store.url, retry_once)
        # wake() interrupts listening all the time, but must not interrupt connecting: so redis-py
        # does not reconnect this connection, _reconnect() does.
        no_retry = Retry(NoBackoff(), 0, supported_errors=())
        self._listener = _connect(servers.store.url, no_retry)
        self._pubsub: PubSub = self._listener.pubsub()
        self._unused_channels: set[str] = set()
        self._is_connection_lost = False
        self._listen_timeout: asyncio.Timeout | None = None
        self._is_woken = False

    async def send(
        self,
        task_id: str,
        argument: dict[str, Any] | str,
        queue: str,
        headers: Headers = NO_HEADERS,
    ) -> None:
        """Subscribe to the result of a task, then put the task into a queue."""
        self._unused_channels.discard(RESULT_PREFIX + task_id)
        with self._servers.store_errors():
            await self._subscribe(RESULT_PREFIX + task_id)
        loop, message = asyncio.get_running_loop(), (task_id, argument, queue, headers)
        await loop.run_in_executor(self._executor, self._publisher.send, *message)

    async def listen(self, seconds: float | None) -> Results:
        """Wait for an announced result; return it, or nothing after some seconds or wake()."""
        if self._is_woken:
            self._is_woken, seconds = False, 0
        with self._servers.store_errors():
            await self._reconnect()
            try:
                async with asyncio.timeout(seconds) as self._listen_timeout:
                    return await self._next_result()
            except TimeoutError:
                return []
            except redis.RedisError:
                self._is_connection_lost = True
                raise
            finally:
                self._listen_timeout = None

    def wake(self) -> None:
        """End the current call of listen(), or else the next one at once."""
        if self._listen_timeout is None:
            self._is_woken = True
        elif not self._listen_timeout.expired():
            self._listen_timeout.reschedule(0)

    async def look_up(self, task_ids: Sequence[str]) -> Results:
        """Read the stored results of these tasks: an announcement is lost if nobody listened."""
        if not task_ids:
            return []
        with self._servers.store_errors():
            values = await self._redis.mget([RESULT_PREFIX + task_id for task_id in task_ids])
        return [(task_id, raw) for task_id, raw in zip(task_ids, values, strict=True) if raw]

    async def clear(self, task_id: str) -> None:
        """Remove an unusable result, so that no lookup returns it again."""
        with self._servers.store_errors():
            await self._redis.delete(RESULT_PREFIX + task_id)

    async def unsubscribe(self, task_ids: Sequence[str]) -> None:
        """Forget these tasks, and unsubscribe from their results, once there are many."""
        self._publisher.forget(task_ids)
        self._unused_channels.update(RESULT_PREFIX + task_id for task_id in task_ids)
        if len(self._unused_channels) >= UNSUBSCRIBE_BATCH and self._pubsub.subscribed:
            channels, self._unused_channels = self._unused_channels, set()
            with self._servers.store_errors():
                await self._reconnect()
                await self._pubsub.unsubscribe(*channels)

    async def is_waiting(self, task_id: str) -> bool | None:
        """Return true if a message waits in its queue; None if that is not known."""
        loop = asyncio.get_running_loop()
        answer = loop.run_in_executor(self._executor, self._publisher.is_waiting, task_id)
        try:
            return await asyncio.wait_for(answer, _LOOK_TIMEOUT)
        except TimeoutError:
            return None

    async def withdraw(self, task_ids: Sequence[str]) -> None:
        """Remove messages from the queue that nobody waits for, before the next one is sent."""
        self._executor.submit(self._publisher.remove, self._publisher.forget(task_ids))

    async def sleep(self, seconds: float) -> None:
        """Do nothing for some seconds."""
        await asyncio.sleep(seconds)

    def silence(self) -> BrokerUnreachable:
        """Return the error for a broker that neither takes a message nor fails to."""
        return self._servers.broker.unreachable(TimeoutError())

    async def close(self) -> None:
        """Close all connections, once the thread has finished its current work."""
        try:
            await self._pubsub.aclose()  # type: ignore[no-untyped-call]  # redis-py's gap
            await _close(self._listener)
            await _close(self._redis)
        finally:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._executor, self._publisher.close)
            self._executor.shutdown(wait=False)

    async def _subscribe(self, channel: str) -> None:
        await self._reconnect()
        try:
            await self._pubsub.subscribe(channel)
        except redis.ConnectionError:  # closed since its last use
            self._is_connection_lost = True
            await self._reconnect()
            await self._pubsub.subscribe(channel)

    async def _reconnect(self) -> None:
        connection = self._pubsub.connection
        if self._is_connection_lost and connection is not None:
            await connection.disconnect(nowait=True)
            await connection.connect()  # subscribes to all channels again
        self._is_connection_lost = False

    async def _next_result(self) -> Results:
        if self._pubsub.connection is None:  # nothing was ever sent: only wake() ends the wait
            await asyncio.get_running_loop().create_future()
        while event := await self._pubsub.get_message(timeout=None):
            if event["type"] == "message":
                return [(event["channel"].decode().removeprefix(RESULT_PREFIX), event["data"])]
        raise redis.ConnectionError("the connection was given up")


def _connect(url: str, retry: Retry) -> Redis:
    """Return a client like that of open_redis(), whose connections close at once."""
    options: dict[str, Any] = {
        "retry": retry,
        # With RESP3, redis-py writes each pushed message, grants included, to its debug log.
        "protocol": 2,
        "socket_timeout": SOCKET_TIMEOUT,
        "socket_connect_timeout": SOCKET_TIMEOUT,
    }
    sentinel = parse_sentinel_url(url)
    if sentinel is None:
        client = Redis.from_url(url, **options)
    else:
        own_options = sentinel_options(sentinel, _AskOnce(NoBackoff(), 0))
        options |= server_options(sentinel)
        manager = Sentinel(sentinel.hosts, 0, own_options, **options)  # type: ignore[no-untyped-call]
        client = manager.master_for(sentinel.master_name)
        for each in manager.sentinels:
            _close_at_once(each)
    _close_at_once(client)
    return client


def _close_at_once(client: Redis) -> None:
    pool = client.connection_pool  # the scheme of the URL decided on its class of connections
    pool.connection_class = type("ClosingAtOnce", (_ClosingAtOnce, pool.connection_class), {})


async def _close(client: Redis) -> None:
    await client.aclose()
    if isinstance(client.connection_pool, SentinelConnectionPool):
        for each in client.connection_pool.sentinel_manager.sentinels:
            await each.aclose()
