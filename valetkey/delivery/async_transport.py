"""The broker and Redis, as a client in an event loop uses them."""

import asyncio
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import redis
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from valetkey.config import without_secrets
from valetkey.delivery.publisher import SOCKET_TIMEOUT, Publisher
from valetkey.delivery.transport import RESULT_PREFIX, UNSUBSCRIBE_BATCH, Results
from valetkey.errors import BrokerUnreachable


class AsyncTransport:
    """The broker and the result store of one client; but for stir(), for one task at a time.

    Celery publishes synchronously, so all of that happens in one thread beside the loop's, which
    lives until this is closed. Every method raises BrokerUnreachable, within seconds, where its
    server does not answer.
    """

    def __init__(self, broker_url: str, result_url: str) -> None:
        self._store = without_secrets(result_url)
        self._publisher = Publisher(broker_url)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="valetkey-publisher")
        # A connection that was closed is opened again; one that is silent has taken long enough.
        once_more = Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
        self._redis = _redis(result_url, once_more)
        # Listening is interrupted all the time, and connecting must not be: that is done here.
        never = Retry(NoBackoff(), 0, supported_errors=())
        self._listener = _redis(result_url, never)
        self._heard: PubSub = self._listener.pubsub()
        self._done: set[str] = set()
        self._is_lost = False
        self._pause: asyncio.Timeout | None = None
        self._is_stirred = False

    async def send(self, task_id: str, argument: dict[str, Any] | str, queue: str) -> None:
        """Put a task with this argument into a queue, listening for its result first."""
        self._done.discard(RESULT_PREFIX + task_id)
        with self._speaking():
            await self._subscribe(RESULT_PREFIX + task_id)
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self._publisher.send, task_id, argument, queue)

    async def listen(self, seconds: float | None) -> Results:
        """Wait for a result to be announced, and return it with its task id; or to be stirred."""
        if self._is_stirred:
            self._is_stirred, seconds = False, 0
        with self._speaking():
            await self._reconnect()
            try:
                async with asyncio.timeout(seconds) as self._pause:
                    return await self._next_result()
            except TimeoutError:
                return []
            except redis.RedisError:
                self._is_lost = True
                raise
            finally:
                self._pause = None

    def stir(self) -> None:
        """End the listening that goes on, or else the next: there is something to do."""
        if self._pause is None:
            self._is_stirred = True
        elif not self._pause.expired():
            self._pause.reschedule(0)

    async def look(self, task_ids: Sequence[str]) -> Results:
        """Look for results in the store: an announcement is lost where nobody listened."""
        if not task_ids:
            return []
        with self._speaking():
            found = await self._redis.mget([RESULT_PREFIX + task_id for task_id in task_ids])
        return [(name, raw) for name, raw in zip(task_ids, found, strict=True) if raw]

    async def clear(self, task_id: str) -> None:
        """Remove a result that is of no use, before it is found again."""
        with self._speaking():
            await self._redis.delete(RESULT_PREFIX + task_id)

    async def forget(self, task_ids: Sequence[str]) -> None:
        """Stop listening for these answers, once there are many."""
        self._done.update(RESULT_PREFIX + task_id for task_id in task_ids)
        if len(self._done) >= UNSUBSCRIBE_BATCH and self._heard.subscribed:
            done, self._done = self._done, set()
            with self._speaking():
                await self._reconnect()
                await self._heard.unsubscribe(*done)

    async def close(self) -> None:
        """Close all connections, once the thread is done with what it is at."""
        try:
            await self._heard.aclose()  # type: ignore[no-untyped-call]  # redis-py's gap
            await self._listener.aclose()
            await self._redis.aclose()
        finally:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._thread, self._publisher.close)
            self._thread.shutdown(wait=False)

    async def _subscribe(self, channel: str) -> None:
        await self._reconnect()
        try:
            await self._heard.subscribe(channel)
        except redis.ConnectionError:  # closed since it was last used
            self._is_lost = True
            await self._reconnect()
            await self._heard.subscribe(channel)

    async def _reconnect(self) -> None:
        connection = self._heard.connection
        if self._is_lost and connection is not None:
            await connection.disconnect(nowait=True)
            await connection.connect()  # which subscribes to everything again
        self._is_lost = False

    async def _next_result(self) -> Results:
        if self._heard.connection is None:  # nothing was ever sent: only stir() ends it
            await asyncio.get_running_loop().create_future()
        while event := await self._heard.get_message(timeout=None):
            if event["type"] == "message":
                return [(event["channel"].decode().removeprefix(RESULT_PREFIX), event["data"])]
        raise redis.ConnectionError("the connection was given up")

    @contextmanager
    def _speaking(self) -> Iterator[None]:
        try:
            yield
        except (redis.RedisError, OSError) as error:
            text = f"no result store answers at {self._store} ({type(error).__name__})"
            raise BrokerUnreachable(text) from None


def _redis(url: str, retry: Retry) -> Redis:
    # Under RESP3 the library writes each pushed answer, grants and all, out for a debug log.
    return Redis.from_url(
        url,
        retry=retry,
        protocol=2,
        socket_timeout=SOCKET_TIMEOUT,
        socket_connect_timeout=SOCKET_TIMEOUT,
    )
