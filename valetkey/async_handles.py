"""The handles that an AsyncClient returns: they read results as they arrive."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Unpack, cast

from valetkey.delivery.async_dispatcher import AsyncDispatcher
from valetkey.delivery.progress import BatchProgress, ReopenedBatchProgress, SingleRequest
from valetkey.errors import Refused
from valetkey.handles import (
    DEFAULT_TIMEOUT,
    BaseBatchHandle,
    BaseGrantHandle,
    PartsRequester,
    Waiters,
    wait_limit,
)
from valetkey.waits import (
    MANIFEST_TIMEOUT,
    STORED_TIMEOUT,
    Manifest,
    StoredObject,
    require_seconds,
)
from valetkey.wire.options import RequestOptions
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant, Outcome, Reply

AsyncWaiters = Waiters[Awaitable[Manifest], Awaitable[StoredObject]]


class AsyncBatchHandle(BaseBatchHandle):
    """A requested batch, as BatchHandle: `async for` yields one Grant or Refusal per item."""

    def __init__(
        self, dispatcher: AsyncDispatcher, progress: BatchProgress, waiters: AsyncWaiters
    ) -> None:
        super().__init__(progress)
        self._dispatcher = dispatcher
        self._waiters = waiters

    def __aiter__(self) -> AsyncIterator[Grant | Refusal]:
        return self.results()

    def results(self, timeout: float | None = DEFAULT_TIMEOUT) -> AsyncIterator[Grant | Refusal]:
        """Yield results as BatchHandle.results does; a timeout of None has no limit."""
        progress = self._progress
        return self._read_results(
            lambda: progress.has_next_chunk, progress.read_next_chunk, timeout
        )

    def as_completed(
        self, timeout: float | None = DEFAULT_TIMEOUT
    ) -> AsyncIterator[Grant | Refusal]:
        """Yield each chunk as soon as it is answered, as BatchHandle.as_completed does."""
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


class AsyncGrantHandle(BaseGrantHandle[AsyncBatchHandle]):
    """A requested grant: await it. batch is the handle of its request, a batch of one item."""

    def __init__(
        self, dispatcher: AsyncDispatcher, progress: BatchProgress, waiters: AsyncWaiters
    ) -> None:
        super().__init__(AsyncBatchHandle(dispatcher, progress, waiters))
        self._dispatcher = dispatcher
        self._progress = progress

    def __await__(self) -> Generator[Any, None, Grant]:
        return self.result().__await__()

    async def result(self, timeout: float | None = DEFAULT_TIMEOUT) -> Grant:
        """Wait for the grant, at most `timeout` seconds. Raises as GrantHandle.result does.

        Cancelling the wait does not withdraw the request.
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
        return self._grant()

    async def stored(self, timeout: float = STORED_TIMEOUT) -> StoredObject:
        """Wait for the grant and its object, as GrantHandle.stored does."""
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


class AsyncMultipartHandle(AsyncGrantHandle):
    """A requested multipart upload: await its grant, and request part URLs."""

    def __init__(
        self,
        dispatcher: AsyncDispatcher,
        progress: BatchProgress,
        waiters: AsyncWaiters,
        request_parts: PartsRequester[AsyncBatchHandle],
    ) -> None:
        super().__init__(dispatcher, progress, waiters)
        self._request_parts = request_parts

    async def parts(
        self, first: int = 1, last: int | None = None, **options: Unpack[RequestOptions]
    ) -> AsyncBatchHandle:
        """Request a URL for each part from first to last, as MultipartHandle.parts does."""
        return self._request_parts(await self.result(), first, last, **options)
