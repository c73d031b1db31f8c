"""What an AsyncClient gives for a request: the answers, as they come."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from typing import Any, Protocol, Unpack, cast

from valetkey.delivery.async_dispatcher import AsyncDispatcher
from valetkey.delivery.progress import BatchProgress, ReopenedBatchProgress, SingleRequest
from valetkey.errors import Refused
from valetkey.handles import DEFAULT_TIMEOUT, READ_ALREADY, BaseBatchHandle, wait_limit
from valetkey.manifests import DEFAULT_TIMEOUT as UNTIL_WRITTEN
from valetkey.manifests import NOT_REQUESTED, Manifest
from valetkey.wire.messages import Grant, Outcome, Reply
from valetkey.wire.options import Options
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Refusal

AsyncManifestWaiter = Callable[[str, float], Awaitable[Manifest]]
"""Waits for the manifest of the batch with an id, so many seconds."""


class AsyncBatchHandle(BaseBatchHandle):
    """A batch under way; `async for` gives one Grant or Refusal an item, in the order asked.

    Items are handed out once, and chunks are sent as they are read, so that a batch of any size
    takes little memory.
    """

    def __init__(
        self,
        courier: AsyncDispatcher,
        progress: BatchProgress,
        ask_for_manifest: AsyncManifestWaiter | None = None,
    ) -> None:
        super().__init__(progress)
        self._courier = courier
        self._ask_for_manifest = ask_for_manifest

    def __aiter__(self) -> AsyncIterator[Grant | Refusal]:
        return self.results()

    def results(self, timeout: float | None = DEFAULT_TIMEOUT) -> AsyncIterator[Grant | Refusal]:
        """The answers that were not handed out yet, in the order asked.

        timeout is the longest wait for the next chunk, in seconds; None waits as long as it takes.
        Raises NoAnswer after it (or BrokerUnreachable, where that is why); call again to ask again
        from there.
        """
        progress = self._progress
        return self._answers(lambda: progress.has_next, progress.read_next, timeout)

    def as_completed(
        self, timeout: float | None = DEFAULT_TIMEOUT
    ) -> AsyncIterator[Grant | Refusal]:
        """The same, but chunk by chunk as they are answered; within one, in the order asked.

        A chunk that is slow keeps none of the others waiting, and its key tells which item an
        answer is to.
        """
        progress = self._progress
        return self._answers(lambda: progress.has_any, progress.read_any, timeout)

    async def manifest(self, timeout: float = UNTIL_WRITTEN) -> Manifest:
        """Have all of it decided, and wait for the file that the answers are written to.

        Otherwise as BatchHandle.manifest.
        """
        if not isinstance(self._progress, ReopenedBatchProgress):
            async for _ in self.results(timeout):
                pass
            if self.refusal is not None and not self.issued:
                raise Refused(self.refusal)
        if self._ask_for_manifest is None:
            raise ValueError(NOT_REQUESTED)
        return await self._ask_for_manifest(self.id, timeout)

    async def _answers(
        self, is_there: Callable[[], bool], read: Callable[[], None], timeout: float | None
    ) -> AsyncIterator[Grant | Refusal]:
        progress = self._progress

        def goes_on() -> bool:  # others may read the same batch
            return bool(progress.ready) or progress.all_read or is_there()

        while True:
            while progress.ready:
                yield progress.ready.popleft()
            if progress.all_read:
                return
            await self._courier.wait(progress, goes_on, wait_limit(progress, timeout))
            if not progress.ready and is_there():
                read()
                self._courier.stir()
                await asyncio.sleep(0)  # other tasks have their turn once a chunk


class AsyncGrantHandle:
    """A single grant under way: await it. batch is its request, a batch of one."""

    def __init__(self, courier: AsyncDispatcher, progress: BatchProgress) -> None:
        self.batch = AsyncBatchHandle(courier, progress)
        self._courier = courier
        self._progress = progress
        self._result: Grant | Refusal | None = None

    @property
    def id(self) -> str:
        """The id of the request."""
        return self.batch.id

    def __await__(self) -> Generator[Any, None, Grant]:
        return self.result().__await__()

    async def result(self, timeout: float | None = DEFAULT_TIMEOUT) -> Grant:
        """Wait for the grant, at most `timeout` seconds.

        Raises Refused, NoAnswer or BrokerUnreachable, and after the latter two, await it again to
        ask again; RuntimeError where its batch was read instead. To be cancelled withdraws nothing:
        the grant is still asked for.
        """
        progress = self._progress
        await self._courier.wait(
            progress,
            lambda: progress.has_next or progress.all_read,
            wait_limit(progress, timeout),
        )
        if progress.has_next:
            progress.read_next()
            self._result = progress.ready.popleft()
        if self._result is None:
            raise RuntimeError(READ_ALREADY)
        if isinstance(self._result, Refusal):
            raise Refused(self._result)
        return self._result


async def wait_for_reply(
    courier: AsyncDispatcher, letter: PendingMessage, timeout: float | None
) -> Reply:
    """Ask something that is answered by one reply, and wait for it, at most `timeout` seconds.

    Raises Refused, NoAnswer, BrokerUnreachable.
    """
    question = SingleRequest(letter)
    await courier.wait(question, lambda: question.reply is not None, timeout)
    reply = cast("Reply", question.reply)
    if isinstance(reply, Outcome) and reply.refusal is not None:
        raise Refused(reply.refusal)
    return reply


class AsyncPartsRequester(Protocol):
    """AsyncClient.parts, for one bucket."""

    def __call__(
        self, grant: Grant, first: int = 1, last: int | None = None, **options: Unpack[Options]
    ) -> AsyncBatchHandle:
        """Ask for the URLs of some parts."""


class AsyncMultipartHandle(AsyncGrantHandle):
    """A multipart upload under way: its result says how to cut the file, and ends the upload."""

    def __init__(
        self, courier: AsyncDispatcher, progress: BatchProgress, ask: AsyncPartsRequester
    ) -> None:
        super().__init__(courier, progress)
        self._ask = ask

    async def parts(
        self, first: int = 1, last: int | None = None, **options: Unpack[Options]
    ) -> AsyncBatchHandle:
        """Ask for URLs that each take one part, from first to last; None is the last of all.

        Whoever uploads slowly asks for a few at a time, and again for those that have expired.
        Raises as result() does, and ValueError where there are no such parts.
        """
        return self._ask(await self.result(), first, last, **options)
