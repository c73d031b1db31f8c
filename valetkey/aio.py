"""The client of the service for asyncio."""

import asyncio
import random
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from weakref import WeakSet

from valetkey.async_handles import (
    AsyncBatchHandle,
    AsyncGrantHandle,
    AsyncMultipartHandle,
    AsyncWaiters,
    request_reply,
)
from valetkey.config import load_config
from valetkey.crypto.codec import Codec
from valetkey.delivery.async_dispatcher import AsyncDispatcher
from valetkey.delivery.async_transport import AsyncTransport
from valetkey.delivery.progress import BatchProgress, ReopenedBatchProgress
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.delivery.transport import client_servers
from valetkey.handles import DEFAULT_TIMEOUT, new_id, read_grant_id, read_subject
from valetkey.request_methods import ExplainMethods, RequestMethods
from valetkey.waits import Manifest, ManifestWait, StoredObject, StoredWait, build_manifest
from valetkey.wire import requests
from valetkey.wire.chunking import ChunkMessageBuilder, ItemInput, chunk_slices
from valetkey.wire.grant_ids import grant_id
from valetkey.wire.messages import Ask, Item
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import QuotaState
from valetkey.wire.replies import (
    BatchState,
    Cancelled,
    Explanation,
    Grant,
    ManifestState,
    ServiceInfo,
    Usage,
    UseStates,
)
from valetkey.wire.requests import GrantRequest, Requester

Keys = Iterable[str | Item] | AsyncIterable[str | Item]
Items = Iterable[Item] | AsyncIterable[Item]


class MessageFeed(Iterator[PendingMessage | None]):
    """Iterates over an async generator without waiting: None if the next message is not ready.

    on_ready is called when a message is ready. Reading continues after the batch is given up,
    because it may be resumed. Only close() stops it, which ends the caller's iterable.
    """

    def __init__(
        self, messages: AsyncGenerator[PendingMessage, None], on_ready: Callable[[], None]
    ) -> None:
        self._messages = messages
        self._on_ready = on_ready
        self._read_task: asyncio.Task[PendingMessage] | None = None
        self._is_closed = False

    def __next__(self) -> PendingMessage | None:
        if self._is_closed:  # the client that closes the feed fails its request as well
            return None
        if self._read_task is None:
            self._read_task = asyncio.get_running_loop().create_task(self._read())
            self._read_task.add_done_callback(self._finish_read)
        if not self._read_task.done():
            return None
        task, self._read_task = self._read_task, None
        if task.cancelled():  # an error of the items: the reader itself is not cancelled
            raise RuntimeError("the task that the items wait for was cancelled")
        return task.result()

    async def close(self) -> None:
        """Stop reading, and close the generator."""
        self._is_closed = True
        if self._read_task is not None:
            self._read_task.cancel()
            await asyncio.wait([self._read_task])
        await self._messages.aclose()

    async def _read(self) -> PendingMessage:
        return await anext(self._messages)

    def _finish_read(self, task: asyncio.Task[PendingMessage]) -> None:
        if not task.cancelled():
            task.exception()  # marks it as retrieved; __next__ raises it if it is called again
        self._on_ready()


async def async_chunk_messages(
    header: Mapping[str, Any], items: AsyncIterable[ItemInput], first_chunk: int = 0
) -> AsyncGenerator[PendingMessage, None]:
    """Yield the messages of a batch; the async form of chunking.chunk_messages."""
    iterator, chunker = aiter(items), ChunkMessageBuilder(header)
    for chunk in chunk_slices(header, first_chunk):
        chunk_items = await _take(iterator, chunk.item_count)
        has_more = chunk.is_last and bool(await _take(iterator, 1))
        yield chunker.build_message(chunk, chunk_items, has_more=has_more)


async def build_explain_message(
    request: GrantRequest, requester: Requester, new_batch_id: str
) -> PendingMessage:
    """Return the message that explains a request; the async form of requests.explain_message."""
    header, items = request.header(requester, new_batch_id)
    if not isinstance(items, AsyncIterable):
        return requests.explain_message(request, requester, new_batch_id)
    async with aclosing(async_chunk_messages({**header, "ask": "explain"}, items)) as messages:
        async for message in messages:
            return message
    raise ValueError("there are no items to explain: pass at least one")


async def _take(items: AsyncIterator[ItemInput], count: int) -> list[ItemInput]:
    taken: list[ItemInput] = []
    while len(taken) < count:
        try:
            taken.append(await anext(items))
        except StopAsyncIteration:
            break
    return taken


class AsyncClient(
    RequestMethods[AsyncGrantHandle, AsyncMultipartHandle, AsyncBatchHandle, Keys, Items]
):
    """The client for asyncio: one for a whole application, shared by all its coroutines.

    Its arguments, configuration and results are those of Client. Its request methods return a
    handle at once, to await or to iterate. One task receives the results, however many coroutines
    wait, and sends messages again even if none waits. Cancelling a wait does not withdraw the
    request. The keys of a batch may come from an async iterable if total is their number. Other
    iterables are read in the event loop, so they must not block.

    A client belongs to the event loop that it is first used in. Leaving an `async with` block waits
    until every request is answered, or raises NoAnswer after exit_timeout seconds; None has no
    limit. Raises NotConfigured.
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
        self._config = load_config(
            {
                "broker_url": broker_url,
                "result_url": result_url,
                "tenant": tenant,
                "requested_by": requested_by,
                "key": key,
            }
        )
        transport = AsyncTransport(client_servers(self._config))
        self._dispatcher = AsyncDispatcher(
            transport, Codec(self._config.key), RetransmitTimer(random.random)
        )
        self._exit_timeout = exit_timeout
        self._feeds: WeakSet[MessageFeed] = WeakSet()

    def explain(
        self, timeout: float | None = DEFAULT_TIMEOUT
    ) -> ExplainMethods[Awaitable[Explanation], Keys, Items]:
        """Ask how a request would be decided, rule by rule. Nothing is charged or signed.

        The returned object has this client's request methods, but each returns an Explanation to
        await, for at most `timeout` seconds: `await client.explain().download("reports", "a.pdf")`.
        Only the first chunk of a batch is explained.
        """
        return ExplainMethods(partial(self._explain_request, timeout=timeout))

    async def usage(self, timeout: float | None = DEFAULT_TIMEOUT) -> list[QuotaState]:
        """Return the state of the tenant's quotas.

        Raises Refused, and after `timeout` seconds NoAnswer, or BrokerUnreachable if that is the
        cause.
        """
        message = self._message("usage")
        return cast("Usage", await request_reply(self._dispatcher, message, timeout)).quotas

    async def service(self, timeout: float | None = DEFAULT_TIMEOUT) -> ServiceInfo:
        """Return the release, versions, kinds and limits of the service, as Client.service does."""
        message = self._message("service")
        return cast("ServiceInfo", await request_reply(self._dispatcher, message, timeout))

    async def batch(self, batch: str, timeout: float | None = DEFAULT_TIMEOUT) -> AsyncBatchHandle:
        """Reopen a batch by its id. Any process of the tenant can do this.

        The result and errors are those of Client.batch.
        """
        message = self._message("batch", batch=batch)
        state = cast("BatchState", await request_reply(self._dispatcher, message, timeout))
        messages = requests.reopen_messages(self._config, new_id(), state)
        progress = ReopenedBatchProgress(state, messages)
        return AsyncBatchHandle(self._dispatcher, progress, self._waiters)

    async def status(
        self,
        subject: str | Grant | AsyncGrantHandle | AsyncBatchHandle,
        *,
        probe: bool = True,
        timeout: float | None = DEFAULT_TIMEOUT,
    ) -> UseStates:
        """Return what became of a grant, or the numbers of a batch's items by state.

        The arguments and errors are those of Client.status.
        """
        batch_id, item = read_subject(subject)
        items = None if item is None else [item]
        message = self._message("status", batch=batch_id, items=items, probe=probe)
        return cast("UseStates", await request_reply(self._dispatcher, message, timeout))

    def reissue(
        self,
        grant: str | Grant | AsyncGrantHandle,
        *,
        expires_in: int | None = None,
        reason: str | None = None,
        recipient: str | None = None,
        batch_id: str | None = None,
    ) -> AsyncGrantHandle:
        """Request a fresh grant of the same object, under the terms of an earlier one.

        The arguments and errors are those of Client.reissue.
        """
        name = new_id() if batch_id is None else batch_id
        options = {"reason": reason, "recipient": recipient, "expires_in": expires_in}
        message = requests.reissue_message(self._config, name, read_grant_id(grant), options)
        progress = BatchProgress(requests.single_header(name), iter([message]))
        self._dispatcher.add(progress)
        return AsyncGrantHandle(self._dispatcher, progress, self._waiters)

    async def cancel(
        self,
        batch: str | AsyncBatchHandle | AsyncGrantHandle,
        reason: str | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        *,
        abort_uploads: bool = False,
    ) -> Cancelled:
        """Cancel a batch: grant no further items, and release what is reserved for them.

        The arguments and errors are those of Client.cancel.
        """
        batch = batch.batch if isinstance(batch, AsyncGrantHandle) else batch
        if isinstance(batch, AsyncBatchHandle):
            batch.stop()
            batch = batch.id
        fields = {"reason": reason, "abort_uploads": abort_uploads or None}
        requested_by = self._config.requested_by
        message = self._message("cancel", batch=batch, requested_by=requested_by, **fields)
        return cast("Cancelled", await request_reply(self._dispatcher, message, timeout))

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until every request is answered; None has no time limit.

        All results that nobody has read yet are kept in memory. Raises NoAnswer after `timeout`
        seconds, or BrokerUnreachable if that is the cause, and the error of a failed request that
        nobody awaited.
        """
        await self._dispatcher.flush(timeout)

    async def close(self) -> None:
        """Close the connections without waiting for results: fire and forget.

        The consequences are those of Client.close. Coroutines that still wait get NoAnswer. If this
        is cancelled, it closes all connections first, which takes a few seconds at most.
        """
        closing = asyncio.create_task(self._close(), name="valetkey-close")
        try:
            await asyncio.shield(closing)
        finally:  # nobody else can close what a cancelled call leaves open
            await asyncio.shield(closing)

    async def _close(self) -> None:
        for feed in list(self._feeds):
            await feed.close()
        await self._dispatcher.close()

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

    def _message(self, ask: Ask, **fields: Any) -> PendingMessage:
        return requests.build_message(self._config, new_id(), ask, **fields)

    def _request_grant(self, request: GrantRequest) -> AsyncGrantHandle:
        return AsyncGrantHandle(self._dispatcher, self._start(request), self._waiters)

    def _request_multipart(self, request: GrantRequest) -> AsyncMultipartHandle:
        request_parts = partial(self.parts, request.bucket)
        return AsyncMultipartHandle(
            self._dispatcher, self._start(request), self._waiters, request_parts
        )

    def _request_batch(self, request: GrantRequest) -> AsyncBatchHandle:
        return AsyncBatchHandle(self._dispatcher, self._start(request), self._waiters)

    def _start(self, request: GrantRequest) -> BatchProgress:
        messages: Iterator[PendingMessage | None]
        if isinstance(request.items, AsyncIterable):
            header, _ = request.header(self._config, new_id())
            chunks = async_chunk_messages(header, request.items, request.first_chunk)
            messages = feed = MessageFeed(chunks, self._dispatcher.wake)
            self._feeds.add(feed)
        else:
            header, messages = requests.header_and_messages(request, self._config, new_id())
        progress = BatchProgress(header, messages, request.first_chunk)
        self._dispatcher.add(progress)
        return progress

    @property
    def _waiters(self) -> AsyncWaiters:
        return AsyncWaiters(self._wait_for_manifest, self._wait_until_stored)

    async def _wait_for_manifest(self, batch_id: str, timeout: float) -> Manifest:
        waiting = ManifestWait(timeout, time.monotonic)
        while True:
            message = self._message("batch", batch=batch_id)
            reply = await request_reply(self._dispatcher, message, waiting.limit)
            state = cast("BatchState", reply)
            result = waiting.receive(state)
            if isinstance(result, ManifestState):
                link = self.download(state.bucket, result.key, min_expires_in=1)
                return build_manifest(result, await link.result(waiting.limit))
            await asyncio.sleep(result)

    async def _wait_until_stored(self, batch_id: str, item: int, timeout: float) -> StoredObject:
        waiting = StoredWait(grant_id(batch_id, item), timeout, time.monotonic)
        while True:
            message = self._message("status", batch=batch_id, items=[item], probe=True)
            reply = await request_reply(self._dispatcher, message, waiting.limit)
            result = waiting.receive(cast("UseStates", reply))
            if isinstance(result, StoredObject):
                return result
            await asyncio.sleep(result)

    async def _explain_request(self, request: GrantRequest, timeout: float | None) -> Explanation:
        message = await build_explain_message(request, self._config, new_id())
        return cast("Explanation", await request_reply(self._dispatcher, message, timeout))
