"""The handles that an AsyncClient returns: they read results as they arrive."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, NamedTuple, Protocol, Unpack, cast

from valetkey.delivery.async_dispatcher import AsyncDispatcher
from valetkey.delivery.progress import BatchProgress, ReopenedBatchProgress, SingleRequest
from valetkey.errors import Refused
from valetkey.handles import ALREADY_READ, DEFAULT_TIMEOUT, BaseBatchHandle, wait_limit
from valetkey.manifests import DEFAULT_TIMEOUT as MANIFEST_TIMEOUT
from valetkey.manifests import Manifest
from valetkey.uses import STORED_TIMEOUT, StoredObject, require_seconds
from valetkey.wire.options import RequestOptions
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant, Outcome, Reply

AsyncManifestWaiter = Callable[[str, float], Awaitable[Manifest]]
"""Waits for the manifest of the batch with this id, at most this many seconds."""

AsyncStoredWaiter = Callable[[str, int, float], Awaitable[StoredObject]]
"""Waits for the object of an item of the batch with this id, at most this many seconds."""


class AsyncWaiters(NamedTuple):
    """The waits of a handle that send requests of their own."""

    manifest: AsyncManifestWaiter
    stored: AsyncStoredWaiter


class AsyncBatchHandle(BaseBatchHandle):
    """A requested batch; `async for` yields one Grant or Refusal per item, in request order.

    Each item is handed out once. Chunks are sent as results are read, so a batch of any size takes
    little memory.
    """

    def __init__(
        self,
        dispatcher: AsyncDispatcher,
        progress: BatchProgress,
        waiters: AsyncWaiters,
    ) -> None:
        super().__init__(progress)
        self._dispatcher = dispatcher
        self._waiters = waiters

    def __aiter__(self) -> AsyncIterator[Grant | Refusal]:
        return self.results()

    def results(self, timeout: float | None = DEFAULT_TIMEOUT) -> AsyncIterator[Grant | Refusal]:
        """Yield the results that were not handed out yet, in request order.

        timeout is the longest wait for the next chunk, in seconds; None has no limit. Raises
        NoAnswer after it, or BrokerUnreachable if that is the cause; call it again to continue from
        there.
        """
        progress = self._progress
        return self._read_results(
            lambda: progress.has_next_chunk, progress.read_next_chunk, timeout
        )

    def as_completed(
        self, timeout: float | None = DEFAULT_TIMEOUT
    ) -> AsyncIterator[Grant | Refusal]:
        """Yield results as results() does, but each chunk as soon as it is answered.

        Within a chunk they are in request order. A slow chunk does not delay the others. The key of
        a result identifies its item.
        """
        progress = self._progress
        return self._read_results(lambda: progress.has_any_chunk, progress.read_any_chunk, timeout)

    async def manifest(self, timeout: float = MANIFEST_TIMEOUT) -> Manifest:
        """Wait until the batch is decided, and then for the file with its results.

        The arguments and errors are those of BatchHandle.manifest.
        """
        if not isinstance(self._progress, ReopenedBatchProgress):
            async for _ in self.results(timeout):
                pass
            if self.refusal is not None and not self.issued:
                raise Refused(self.refusal)
        return await self._waiters.manifest(self.id, timeout)

    async def stored(self, item: int, timeout: float = STORED_TIMEOUT) -> StoredObject:
        """Wait until storage has the object of an item, at most `timeout` seconds.

        The arguments and errors are those of BatchHandle.stored.
        """
        self.check_item(item)
        return await self._waiters.stored(self.id, item, timeout)

    async def _read_results(
        self, is_ready: Callable[[], bool], read_chunk: Callable[[], None], timeout: float | None
    ) -> AsyncIterator[Grant | Refusal]:
        progress = self._progress

        def can_continue() -> bool:  # other tasks may read the same batch
            return bool(progress.ready_results) or progress.is_fully_read or is_ready()

        while True:
            while progress.ready_results:
                yield progress.ready_results.popleft()
            if progress.is_fully_read:
                return
            await self._dispatcher.wait(progress, can_continue, wait_limit(progress, timeout))
            if not progress.ready_results and is_ready():
                read_chunk()
                self._dispatcher.wake()
                await asyncio.sleep(0)  # lets other tasks run once per chunk


class AsyncGrantHandle:
    """A requested grant: await it. batch is the handle of its request, a batch of one item."""

    def __init__(
        self, dispatcher: AsyncDispatcher, progress: BatchProgress, waiters: AsyncWaiters
    ) -> None:
        self.batch = AsyncBatchHandle(dispatcher, progress, waiters)
        self._dispatcher = dispatcher
        self._progress = progress
        self._result: Grant | Refusal | None = None

    @property
    def id(self) -> str:
        """The id of the request: its batch id."""
        return self.batch.id

    def __await__(self) -> Generator[Any, None, Grant]:
        return self.result().__await__()

    async def result(self, timeout: float | None = DEFAULT_TIMEOUT) -> Grant:
        """Wait for the grant, at most `timeout` seconds.

        Raises Refused; RuntimeError if the grant was read from the batch instead; NoAnswer or
        BrokerUnreachable, after which you can await it again to ask again. Cancelling the wait does
        not withdraw the request.
        """
        progress = self._progress
        await self._dispatcher.wait(
            progress,
            lambda: progress.has_next_chunk or progress.is_fully_read,
            wait_limit(progress, timeout),
        )
        if progress.has_next_chunk:
            progress.read_next_chunk()
            self._result = progress.ready_results.popleft()
        if self._result is None:
            raise RuntimeError(ALREADY_READ)
        if isinstance(self._result, Refusal):
            raise Refused(self._result)
        return self._result

    async def stored(self, timeout: float = STORED_TIMEOUT) -> StoredObject:
        """Wait for the grant, and then until storage has its object: at most `timeout` seconds.

        Somebody has to use the grant meanwhile. Raises as result() and BatchHandle.stored() do.
        """
        end = time.monotonic() + require_seconds(timeout)
        await self.result(timeout)
        return await self.batch.stored(0, max(end - time.monotonic(), 0))


async def request_reply(
    dispatcher: AsyncDispatcher, message: PendingMessage, timeout: float | None
) -> Reply:
    """Send a message that has one reply, and wait for it, at most `timeout` seconds.

    Raises Refused, NoAnswer, BrokerUnreachable.
    """
    request = SingleRequest(message)
    await dispatcher.wait(request, lambda: request.reply is not None, timeout)
    reply = cast("Reply", request.reply)
    if isinstance(reply, Outcome) and reply.refusal is not None:
        raise Refused(reply.refusal)
    return reply


class AsyncPartsRequester(Protocol):
    """A callable like AsyncClient.parts whose bucket is already given."""

    def __call__(
        self, grant: Grant, first: int, last: int | None, **options: Unpack[RequestOptions]
    ) -> AsyncBatchHandle:
        """Request the URLs of some parts."""


class AsyncMultipartHandle(AsyncGrantHandle):
    """A requested multipart upload: await its grant, and request part URLs."""

    def __init__(
        self,
        dispatcher: AsyncDispatcher,
        progress: BatchProgress,
        waiters: AsyncWaiters,
        request_parts: AsyncPartsRequester,
    ) -> None:
        super().__init__(dispatcher, progress, waiters)
        self._request_parts = request_parts

    async def parts(
        self, first: int = 1, last: int | None = None, **options: Unpack[RequestOptions]
    ) -> AsyncBatchHandle:
        """Request a URL for each part from first to last; None is the last part of the upload.

        If you upload slowly, request a few parts at a time, and again those whose URLs have
        expired. Raises as result() does, and ValueError if the upload has no such parts.
        """
        return self._request_parts(await self.result(), first, last, **options)
