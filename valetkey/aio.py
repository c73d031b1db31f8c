"""Asking for grants from a program that runs in an event loop."""

import asyncio
import random
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from weakref import WeakSet

from valetkey import config
from valetkey.async_handles import (
    AsyncBatchHandle,
    AsyncGrantHandle,
    AsyncMultipartHandle,
    wait_for_reply,
)
from valetkey.client import new_id
from valetkey.crypto.codec import Codec
from valetkey.delivery import async_feed
from valetkey.delivery.async_dispatcher import AsyncDispatcher
from valetkey.delivery.async_feed import MessageFeed
from valetkey.delivery.async_transport import AsyncTransport
from valetkey.delivery.progress import BatchProgress, ReopenedBatchProgress
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.handles import DEFAULT_TIMEOUT
from valetkey.manifests import Manifest, build_manifest, poll_intervals, written_state
from valetkey.request_methods import BaseRequestMethods
from valetkey.wire import requests
from valetkey.wire.messages import Cancelled, Explanation, Item, Usage
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import QuotaState
from valetkey.wire.requests import GrantRequest
from valetkey.wire.states import BatchState

Keys = Iterable[str | Item] | AsyncIterable[str | Item]
Items = Iterable[Item] | AsyncIterable[Item]
AwaitableExplanation = Awaitable[Explanation]


class AsyncClient(
    BaseRequestMethods[AsyncGrantHandle, AsyncMultipartHandle, AsyncBatchHandle, Keys, Items]
):
    """Client for asyncio: one for a whole application, shared by all its coroutines.

    It is configured as Client is, and what it asks and answers is the same. What asks for grants
    returns at once, with a handle to await or to iterate; an answer is awaited by one task, however
    many wait, and re-sending goes on whether or not anybody does. To be cancelled while waiting
    withdraws nothing. Many keys may come from an async iterable, if total says how many they are;
    other iterables are read in the event loop, so they must not block.

    It belongs to the event loop that it is first used in. Leaving an `async with` block waits until
    all is answered, or raises NoAnswer after exit_timeout seconds (None: never). Raises
    NotConfigured.
    """

    def __init__(  # noqa: PLR0913 - each has its own default
        self,
        broker_url: str | None = None,
        result_url: str | None = None,
        tenant: str | None = None,
        requested_by: str | None = None,
        *,
        key: str | Path | None = None,
        exit_timeout: float | None = 60.0,
    ) -> None:
        self._config = config.load(
            {
                "broker_url": broker_url,
                "result_url": result_url,
                "tenant": tenant,
                "requested_by": requested_by,
                "key": key,
            }
        )
        transport = AsyncTransport(self._config.broker_url, self._config.result_url)
        self._courier = AsyncDispatcher(
            transport, Codec(self._config.key), RetransmitTimer(random.random)
        )
        self._exit_timeout = exit_timeout
        self._feeds: WeakSet[MessageFeed] = WeakSet()

    def explain(self, timeout: float | None = DEFAULT_TIMEOUT) -> "AsyncExplainMethods":
        """Ask what would be decided, rule by rule; nothing is charged or signed.

        What it returns has the same methods as this client, each to be awaited: `await
        client.explain().download("reports", "a.pdf")` is an Explanation, within `timeout` seconds.
        A batch is explained by its first chunk.
        """
        return AsyncExplainMethods(partial(self._explained, timeout=timeout))

    async def usage(self, timeout: float | None = DEFAULT_TIMEOUT) -> list[QuotaState]:
        """How the tenant's quotas stand.

        Raises NoAnswer after `timeout` seconds (or BrokerUnreachable, where that is why), Refused.
        """
        letter = requests.usage_message(self._config, new_id())
        return cast("Usage", await wait_for_reply(self._courier, letter, timeout)).quotas

    async def cancel(
        self,
        batch: str | AsyncBatchHandle | AsyncGrantHandle,
        reason: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> Cancelled:
        """Have nothing more granted of a batch, and what is reserved for the rest of it released.

        Otherwise as Client.cancel.
        """
        batch = batch.batch if isinstance(batch, AsyncGrantHandle) else batch
        if isinstance(batch, AsyncBatchHandle):
            batch.stop()
            batch = batch.id
        letter = requests.cancel_message(self._config, new_id(), batch, reason)
        return cast("Cancelled", await wait_for_reply(self._courier, letter, timeout))

    async def batch(self, batch: str, timeout: float | None = DEFAULT_TIMEOUT) -> AsyncBatchHandle:
        """Reopen a batch by its id, whichever process of the tenant asked for it.

        Otherwise as Client.batch.
        """
        letter = requests.batch_state_message(self._config, new_id(), batch)
        found = cast("BatchState", await wait_for_reply(self._courier, letter, timeout))
        letters = requests.reopen_messages(self._config, new_id(), found)
        return AsyncBatchHandle(
            self._courier, ReopenedBatchProgress(found, letters), self._manifest
        )

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until all that was asked is answered; None waits as long as it takes.

        Answers that nobody has read yet are kept, all of them. Raises NoAnswer after `timeout`
        seconds (or BrokerUnreachable, where that is why), and what failed that nobody awaited.
        """
        await self._courier.flush(timeout)

    async def close(self) -> None:
        """Close the connections without waiting for answers: fire and forget.

        It gives up what Client.close does; whoever still waits gets NoAnswer.
        """
        for feed in list(self._feeds):
            await feed.close()
        await self._courier.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                await self.flush(self._exit_timeout)
        finally:
            await self.close()

    def _one(self, request: GrantRequest) -> AsyncGrantHandle:
        return AsyncGrantHandle(self._courier, self._begin(request))

    def _begun(self, request: GrantRequest) -> AsyncMultipartHandle:
        ask = partial(self.parts, request.bucket)
        return AsyncMultipartHandle(self._courier, self._begin(request), ask)

    def _many(self, request: GrantRequest) -> AsyncBatchHandle:
        return AsyncBatchHandle(self._courier, self._begin(request), self._manifest)

    async def _manifest(self, batch: str, timeout: float) -> Manifest:
        for gap in poll_intervals(timeout, time.monotonic):
            letter = requests.batch_state_message(self._config, new_id(), batch)
            state = cast("BatchState", await wait_for_reply(self._courier, letter, DEFAULT_TIMEOUT))
            found = written_state(state)
            if found is not None:
                return build_manifest(
                    found, await self.download(state.bucket, found.key, min_expires_in=1)
                )
            await asyncio.sleep(gap)
        raise AssertionError  # gaps raise

    def _begin(self, request: GrantRequest) -> BatchProgress:
        letters: Iterator[PendingMessage | None]
        if isinstance(request.items, AsyncIterable):
            head, _ = request.header(self._config, new_id())
            made = async_feed.async_chunk_messages(head, request.items, request.first_chunk)
            letters = feed = MessageFeed(made, self._courier.stir)
            self._feeds.add(feed)
        else:
            head, letters = requests.grant_messages(request, self._config, new_id())
        progress = BatchProgress(head, letters, request.first_chunk)
        self._courier.take(progress)
        return progress

    async def _explained(self, request: GrantRequest, timeout: float | None) -> Explanation:
        letter = await async_feed.async_explain_message(request, self._config, new_id())
        return cast("Explanation", await wait_for_reply(self._courier, letter, timeout))


class AsyncExplainMethods(
    BaseRequestMethods[
        AwaitableExplanation, AwaitableExplanation, AwaitableExplanation, Keys, Items
    ]
):
    """Asks what would be decided, by the methods of a client; see AsyncClient.explain."""

    def __init__(self, ask: Callable[[GrantRequest], AwaitableExplanation]) -> None:
        self._ask = ask

    def _one(self, request: GrantRequest) -> AwaitableExplanation:
        return self._ask(request)

    def _begun(self, request: GrantRequest) -> AwaitableExplanation:
        return self._ask(request)

    def _many(self, request: GrantRequest) -> AwaitableExplanation:
        return self._ask(request)
