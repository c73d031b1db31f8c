"""The handles that the clients return: they read results as they arrive."""

import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from datetime import UTC, datetime
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, Unpack

from valetkey.blocking import blocking, run
from valetkey.delivery.pending_request import DEFAULT_TIMEOUT, ServiceOutage
from valetkey.delivery.progress import CANCELLED, BatchProgress, ReopenedBatchProgress
from valetkey.errors import Refused
from valetkey.session import Session
from valetkey.waits import (
    MANIFEST_TIMEOUT,
    STORED_TIMEOUT,
    Manifest,
    ManifestWait,
    StoredObject,
    StoredWait,
    build_manifest,
    require_seconds,
)
from valetkey.wire.grant_ids import grant_id, split_grant_id
from valetkey.wire.options import RequestOptions
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import BatchState, Grant, ItemResult, ManifestState, UseStates
from valetkey.wire.requests import GrantRequest

_MIN_WAIT = 1.0  # seconds in which the service can still reply that the deadline has passed

Batch_co = TypeVar("Batch_co", bound="BaseBatchHandle", covariant=True)


class BaseBatchHandle:
    """The part of BatchHandle and AsyncBatchHandle that does not wait."""

    def __init__(self, session: Session, progress: BatchProgress) -> None:
        self._session = session
        self._progress = progress

    @property
    def id(self) -> str:
        """The batch id; any process of the tenant can reopen the batch by it."""
        return self._progress.id

    @property
    def total(self) -> int:
        """The number of its items."""
        return self._progress.total

    @property
    def issued(self) -> int:
        """The number of items granted so far."""
        return self._progress.issued

    @property
    def refused(self) -> int:
        """The number of items refused so far."""
        return self._progress.refused

    @property
    def remaining(self) -> int:
        """The number of items that are not decided yet."""
        return self._progress.remaining

    @property
    def refusal(self) -> Refusal | None:
        """The refusal of the whole batch, or of the rest of a cancelled one.

        Each item without a grant gets it.
        """
        return self._progress.refusal

    @property
    def quotas(self) -> list[QuotaState]:
        """The state of the tenant's quotas in the newest reply."""
        return self._progress.quotas

    @property
    def service_outage(self) -> ServiceOutage | None:
        """Why, and since what time.monotonic(), the service says that it cannot answer."""
        return self._progress.service_outages.current

    def stop(self) -> None:
        """Send no more chunks, as Client.cancel does: items of unsent chunks come out refused."""
        self._progress.close(CANCELLED)

    def check_item(self, item: int) -> None:
        """Raise ValueError if the batch has no item of this number."""
        if not 0 <= item < self.total:
            raise ValueError(f"the batch has {self.total} items: item must be one of them, from 0")

    async def _next_result(self, timeout: float | None, *, in_order: bool) -> ItemResult | None:
        """Hand out one result, and wait for it; None once all were handed out."""
        progress = self._progress

        def can_continue() -> bool:  # other tasks may read the same batch
            is_read = bool(progress.ready_results) or progress.is_fully_read
            return is_read or progress.has_chunk(in_order=in_order)

        while not (progress.ready_results or progress.is_fully_read):
            seconds = wait_limit(progress, timeout)
            await self._session.dispatcher.wait(progress, can_continue, seconds)
            if not progress.ready_results and progress.has_chunk(in_order=in_order):
                progress.read_chunk(in_order=in_order)
        return progress.ready_results.popleft() if progress.ready_results else None

    async def _read_single(self, timeout: float | None) -> ItemResult | None:
        """Return the result of a batch of one item; None if it was read before."""
        progress = self._progress
        seconds = wait_limit(progress, timeout)
        await self._session.dispatcher.wait(
            progress, lambda: progress.has_chunk() or progress.is_fully_read, seconds
        )
        if not progress.has_chunk():
            return None
        progress.read_chunk()
        return progress.ready_results.popleft()


def wait_limit(progress: BatchProgress, timeout: float | None) -> float | None:
    """Return how many seconds to wait for a batch: `timeout`, but not beyond its deadline."""
    if progress.deadline is None:
        return timeout
    seconds = max((progress.deadline - datetime.now(UTC)).total_seconds(), _MIN_WAIT)
    return seconds if timeout is None else min(timeout, seconds)


class AsyncBatchHandle(BaseBatchHandle):
    """A requested batch; `async for` yields one Grant or Refusal per item, in request order.

    Each item is handed out once. Chunks are sent as results are read, so a batch of any size takes
    little memory.
    """

    def __aiter__(self) -> AsyncIterator[ItemResult]:
        return self.results()

    async def results(
        self, timeout: float | None = DEFAULT_TIMEOUT
    ) -> AsyncGenerator[ItemResult, None]:
        """Yield results as BatchHandle.results does."""
        while (result := await self._next_result(timeout, in_order=True)) is not None:
            yield result

    async def as_completed(
        self, timeout: float | None = DEFAULT_TIMEOUT
    ) -> AsyncGenerator[ItemResult, None]:
        """Yield each chunk as soon as it is answered, as BatchHandle.as_completed does."""
        while (result := await self._next_result(timeout, in_order=False)) is not None:
            yield result

    async def manifest(self: BaseBatchHandle, timeout: float = MANIFEST_TIMEOUT) -> Manifest:
        """Wait until the batch is decided, and then for the file with its results.

        timeout is the longest wait for the next chunk, and then for the file, in seconds. The link
        to the file is charged as any other. Raises Refused if the batch or the link is refused,
        StorageError if the file cannot be written, and ValueError if the batch has no manifest.
        After NoAnswer or BrokerUnreachable, call it again to continue.
        """
        if not isinstance(self._progress, ReopenedBatchProgress):
            while await self._next_result(timeout, in_order=True) is not None:
                pass
            if self.refusal is not None and not self.issued:
                raise Refused(self.refusal)
        session, waiting = self._session, ManifestWait(timeout, time.monotonic)
        while True:
            state = await session.ask(BatchState, "batch", waiting.limit, batch=self.id)
            result = waiting.receive(state)
            if isinstance(result, ManifestState):
                terms = {"min_expires_in": 1}
                link = session.start(GrantRequest("download", state.bucket, [result.key], terms))
                grant = AsyncGrantHandle(AsyncBatchHandle(session, link)).result(waiting.limit)
                return build_manifest(result, await grant)
            await session.dispatcher.pause(result)

    async def stored(
        self: BaseBatchHandle, item: int, timeout: float = STORED_TIMEOUT
    ) -> StoredObject:
        """Wait until storage has the object of an item, at most `timeout` seconds.

        item is its number in the batch, from 0. Any process of the tenant can wait: see
        Client.batch. Raises NotStored if the object is not there in time, or not as granted;
        Refused if the service does not know the batch yet, and ValueError if the batch has no such
        item, or its grants store no object. After NoAnswer or BrokerUnreachable, call it again.
        """
        self.check_item(item)
        waiting = StoredWait(grant_id(self.id, item), timeout, time.monotonic)
        subject = {"batch": self.id, "items": [item], "probe": True}
        while True:
            states = await self._session.ask(UseStates, "status", waiting.limit, **subject)
            result = waiting.receive(states)
            if isinstance(result, StoredObject):
                return result
            await self._session.dispatcher.pause(result)


class BatchHandle(BaseBatchHandle):
    """A requested batch, as AsyncBatchHandle: iterate it for one Grant or Refusal per item."""

    def __iter__(self) -> Iterator[ItemResult]:
        return self.results()

    def results(self, timeout: float | None = DEFAULT_TIMEOUT) -> Iterator[ItemResult]:
        """Yield the results that were not handed out yet, in request order.

        timeout is the longest wait for the next chunk, in seconds; None has no limit. Raises
        NoAnswer after it, or BrokerUnreachable if that is the cause; call it again to continue from
        there.
        """
        return iter(lambda: run(self._next_result(timeout, in_order=True)), None)

    def as_completed(self, timeout: float | None = DEFAULT_TIMEOUT) -> Iterator[ItemResult]:
        """Yield results as results() does, but each chunk as soon as it is answered.

        Within a chunk they are in request order. A slow chunk does not delay the others. The key of
        a result identifies its item.
        """
        return iter(lambda: run(self._next_result(timeout, in_order=False)), None)

    manifest = blocking(AsyncBatchHandle.manifest)
    stored = blocking(AsyncBatchHandle.stored)


class BaseGrantHandle(Generic[Batch_co]):
    """The part of GrantHandle and AsyncGrantHandle that does not wait."""

    def __init__(self, batch: Batch_co) -> None:
        self.batch = batch
        self._result: ItemResult | None = None

    @property
    def id(self) -> str:
        """The id of the request: its batch id."""
        return self.batch.id


class AsyncGrantHandle(BaseGrantHandle[AsyncBatchHandle]):
    """A requested grant: await it. batch is the handle of its request, a batch of one item."""

    def __await__(self) -> Generator[Any, None, Grant]:
        return self.result().__await__()

    async def result(
        self: BaseGrantHandle[BaseBatchHandle], timeout: float | None = DEFAULT_TIMEOUT
    ) -> Grant:
        """Wait for the grant, at most `timeout` seconds.

        Raises Refused; RuntimeError if the grant was read from the batch instead; NoAnswer or
        BrokerUnreachable. After these two, or if it is cancelled, the request is given up: it is
        withdrawn unless a worker has taken it. Call this again to ask again.
        """
        if self._result is None:
            result = await self.batch._read_single(timeout)  # noqa: SLF001 - of this module
            self._result = self._result or result  # another coroutine may have read it
        if self._result is None:
            raise RuntimeError("the grant was already read from its batch")
        if isinstance(self._result, Refusal):
            raise Refused(self._result)
        return self._result

    async def stored(
        self: BaseGrantHandle[BaseBatchHandle], timeout: float = STORED_TIMEOUT
    ) -> StoredObject:
        """Wait for the grant, and then until storage has its object: at most `timeout` seconds.

        Somebody has to use the grant meanwhile. Raises as result() and BatchHandle.stored() do.
        """
        end = time.monotonic() + require_seconds(timeout)
        await AsyncGrantHandle.result(self, timeout)
        return await AsyncBatchHandle.stored(self.batch, 0, max(end - time.monotonic(), 0))


class GrantHandle(BaseGrantHandle[BatchHandle]):
    """A requested grant. batch is the handle of its request, a batch of one item."""

    result = blocking(AsyncGrantHandle.result)
    stored = blocking(AsyncGrantHandle.stored)


class PartsRequester(Protocol[Batch_co]):
    """A callable like a client's method parts() whose bucket is already given."""

    def __call__(
        self, grant: Grant, first: int, last: int | None, **options: Unpack[RequestOptions]
    ) -> Batch_co:
        """Request the URLs of some parts."""


class AsyncMultipartHandle(AsyncGrantHandle):
    """A requested multipart upload: await its grant, and request part URLs."""

    def __init__(
        self, batch: AsyncBatchHandle, request_parts: PartsRequester[AsyncBatchHandle]
    ) -> None:
        super().__init__(batch)
        self._request_parts = request_parts

    async def parts(
        self, first: int = 1, last: int | None = None, **options: Unpack[RequestOptions]
    ) -> AsyncBatchHandle:
        """Request a URL for each part from first to last, as MultipartHandle.parts does."""
        return self._request_parts(await self.result(), first, last, **options)


class MultipartHandle(GrantHandle):
    """A requested multipart upload: wait for its grant, and request part URLs."""

    def __init__(self, batch: BatchHandle, request_parts: PartsRequester[BatchHandle]) -> None:
        super().__init__(batch)
        self._request_parts = request_parts

    def parts(
        self, first: int = 1, last: int | None = None, **options: Unpack[RequestOptions]
    ) -> BatchHandle:
        """Request a URL for each part from first to last; None is the last part of the upload.

        If you upload slowly, request a few parts at a time, and again those whose URLs have
        expired. Raises as result() does, and ValueError if the upload has no such parts.
        """
        return self._request_parts(self.result(), first, last, **options)


class Subject(NamedTuple):
    """A batch, and the number of the item that is meant, if it is a single one."""

    batch_id: str
    item: int | None = None


def read_subject(subject: object, argument: str = "subject") -> Subject:
    """Return the batch and item that are named by a grant, a handle, a grant id or a batch id.

    Raises ValueError for a text that is no id, and TypeError that names the argument for any other
    value.
    """
    match subject:
        case str() if "." not in subject:
            return Subject(subject)
        case str() | Grant():
            text = subject if isinstance(subject, str) else subject.id
            try:
                return Subject(*split_grant_id(text))
            except ValueError:
                raise ValueError(f"{text!r} is neither a grant id nor a batch id") from None
        case BaseGrantHandle():
            return Subject(subject.id, 0)
        case BaseBatchHandle():
            return Subject(subject.id)
    name = type(subject).__name__
    raise TypeError(f"{argument} must be a grant, a handle or an id, and is a {name}")


def read_grant_id(subject: object) -> str:
    """Return the id of a grant, or of the grant of a handle.

    Raises as read_subject does, and ValueError for a batch id.
    """
    batch_id, item = read_subject(subject, "grant")
    if item is None:
        raise ValueError(f"{batch_id!r} is the id of a batch: add a dot and the item's number")
    return grant_id(batch_id, item)
