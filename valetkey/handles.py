"""The handles that the clients return: they read results as they arrive."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Generator, Iterator
from typing import Any, Generic, NamedTuple, NoReturn, Protocol, TypeVar, Unpack, cast
from weakref import WeakKeyDictionary

from valetkey.arguments import TimeLimit, checked
from valetkey.blocking import blocking, run
from valetkey.delivery.pending_request import ServiceOutage
from valetkey.delivery.progress import CANCELLED, BatchProgress, ReopenedBatchProgress
from valetkey.errors import Expired, Refused
from valetkey.session import CLIENT_TIMEOUT, Session, Timeout
from valetkey.waits import (
    MANIFEST_TIMEOUT,
    STORED_TIMEOUT,
    Manifest,
    ManifestWait,
    StoredObject,
    StoredWait,
    build_manifest,
)
from valetkey.wire.grant_ids import grant_id, is_batch_id, split_grant_id
from valetkey.wire.options import RequestOptions
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import BatchState, Grant, ItemResult, ManifestState, UseStates
from valetkey.wire.requests import GrantRequest

MAX_KEPT_RESULTS = 10_000
"""The size of the largest batch whose results a handle keeps: they take some 20 MB."""

_LINK_METHODS = frozenset({"GET", "HEAD"})  # whose grant may be issued twice: it stores nothing

Batch_co = TypeVar("Batch_co", bound="BaseBatchHandle", covariant=True)


class _Handle:
    """A part of its client, which only its own process can use."""

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a handle belongs to its client and cannot be copied or pickled: pass its id to "
            "another process, which calls client.batch(id)"
        )


class BaseBatchHandle(_Handle):
    """The part of BatchHandle and AsyncBatchHandle that does not wait."""

    def __init__(self, session: Session, progress: BatchProgress) -> None:
        self._session = session
        self._progress = progress
        self._keeps_results = progress.total <= MAX_KEPT_RESULTS
        self._results: list[ItemResult] = []  # those handed out, if they are kept
        self._renewals: dict[str, BaseBatchHandle] = {}  # by the id of the grant to issue again

    def __len__(self) -> int:
        return self.total

    def __repr__(self) -> str:
        progress = self._progress
        counts = f"{progress.issued:,} issued, {progress.refused:,} refused of {self.total:,}"
        return f"<{type(self).__name__} {self.id} {self.state}: {counts}>"

    @property
    def id(self) -> str:
        """The batch id; any process of the tenant can reopen the batch by it."""
        return self._progress.id

    @property
    def state(self) -> str:
        """`undecided` until each item is `decided`, or the batch is `refused` or `cancelled`."""
        if self._progress.refusal is not None:
            return "cancelled" if self._progress.refusal is CANCELLED else "refused"
        return "undecided" if self._progress.remaining else "decided"

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
        self._progress.mark_refusals_read()
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
        self._progress.mark_refusals_read()
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

    async def _result_at(self, number: int, timeout: Timeout) -> ItemResult | None:
        """Return a result by its number in the order in which they are handed out, from 0.

        None after the last one. Raises RuntimeError if it was handed out and is not kept.
        """
        if not self._keeps_results:
            if number != self._progress.handed_out:
                raise RuntimeError(
                    f"the results of more than {MAX_KEPT_RESULTS:,} items are not kept: results() "
                    "continues, and client.batch(id) reads the batch again"
                )
            return await self._next_result(timeout, in_order=True)
        result = None
        while number >= len(self._results):  # other coroutines may read the same batch
            result = await self._next_result(timeout, in_order=True)
            if result is None:
                break
        if number >= len(self._results):
            return None
        if self._results[number] is not result:
            self._results[number] = await self._renew(self._results[number], timeout)
        return self._results[number]

    async def _next_result(self, timeout: Timeout, *, in_order: bool) -> ItemResult | None:
        """Hand out one result, and wait for it; None once all were handed out."""
        ready = self._progress.ready_results
        with self._session.dispatcher.exclusive():
            while True:
                if not ready:
                    await self._read_chunk(timeout, in_order=in_order)
                if not ready:
                    return None
                result = ready[0]  # it stays there until it is handed out, whatever fails
                try:
                    renewed = await self._renew(result, timeout)
                except Expired:
                    self._hand_out(result)
                    raise
                if ready and ready[0] is result:  # no other coroutine was faster
                    self._hand_out(renewed)
                    return renewed

    def _hand_out(self, result: ItemResult) -> None:
        self._progress.ready_results.popleft()
        self._progress.handed_out += 1
        if self._keeps_results:
            self._results.append(result)

    async def _read_chunk(self, timeout: Timeout, *, in_order: bool) -> None:
        """Wait for the results of a chunk, unless all were handed out."""
        progress = self._progress

        def can_continue() -> bool:  # other tasks may read the same batch
            is_read = bool(progress.ready_results) or progress.is_fully_read
            return is_read or progress.has_chunk(in_order=in_order)

        while not (progress.ready_results or progress.is_fully_read):
            await self._session.wait(progress, can_continue, timeout)
            if not progress.ready_results and progress.has_chunk(in_order=in_order):
                progress.read_chunk(in_order=in_order)
                self._begin_renewals()

    def _begin_renewals(self) -> None:
        """Ask together for all links of a chunk that have to be issued again."""
        for result in self._progress.ready_results:
            if isinstance(result, Grant):
                if not self._session.is_stale(self._progress, result):
                    return  # those of one chunk expire together
                self._renewal_of(result)

    async def _renew(self, result: ItemResult, timeout: Timeout) -> ItemResult:
        """Return a result that is valid for long enough: a link that is not is issued again.

        Raises Expired for any other grant: a second one could store a second object.
        """
        if isinstance(result, Refusal) or not self._session.is_stale(self._progress, result):
            return result
        renewal = self._renewal_of(result)
        if renewal is None:
            raise Expired(result, self._session.min_left(self._progress))
        renewed = await renewal._result_at(0, timeout)  # noqa: SLF001 - of this class
        is_new = self._renewals.pop(result.id, None) is not None  # for the first who has waited
        if isinstance(renewed, Refusal):
            if is_new:
                self._progress.count_refused_renewal()
            return renewed.model_copy(update={"key": result.key})
        return renewed or result

    def _renewal_of(self, grant: Grant) -> "BaseBatchHandle | None":
        """Return the request that issues a link again; None for any other grant."""
        if grant.method not in _LINK_METHODS:
            return None
        if grant.id not in self._renewals:
            progress = self._session.reissue(grant.id, {})
            # As it is, however soon it expires: or wrong clocks would issue links without end.
            self._renewals[grant.id] = BaseBatchHandle(self._session.without_min_left(), progress)
        return self._renewals[grant.id]


@checked
class AsyncBatchHandle(BaseBatchHandle):
    """A requested batch; `async for` yields one Grant or Refusal per item, in request order.

    Chunks are sent as results are read. The results of up to 10,000 items are kept, so that
    iterating again yields the same; results() and as_completed() hand out each item once. A larger
    batch takes little memory, and can be read once.

    A grant that expires too soon is not handed out, if it could be used for longer when it was
    issued: a link is issued again, and any other grant raises Expired. See min_left of Client.
    """

    async def __aiter__(self) -> AsyncGenerator[ItemResult, None]:
        number = 0
        while (result := await self._result_at(number, CLIENT_TIMEOUT)) is not None:
            yield result
            number += 1

    async def results(self, timeout: Timeout = CLIENT_TIMEOUT) -> AsyncGenerator[ItemResult, None]:
        """Yield results as BatchHandle.results does."""
        while (result := await self._next_result(timeout, in_order=True)) is not None:
            yield result

    async def as_completed(
        self, timeout: Timeout = CLIENT_TIMEOUT
    ) -> AsyncGenerator[ItemResult, None]:
        """Yield each chunk as soon as it is answered, as BatchHandle.as_completed does."""
        while (result := await self._next_result(timeout, in_order=False)) is not None:
            yield result

    async def manifest(self: BaseBatchHandle, timeout: TimeLimit = MANIFEST_TIMEOUT) -> Manifest:
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
        self: BaseBatchHandle, item: int, timeout: TimeLimit = STORED_TIMEOUT
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


@checked
class BatchHandle(BaseBatchHandle):
    """A requested batch, as AsyncBatchHandle: iterate it for one Grant or Refusal per item."""

    def __iter__(self) -> Iterator[ItemResult]:
        number = 0
        while (result := run(self._result_at(number, CLIENT_TIMEOUT))) is not None:
            yield result
            number += 1

    def results(self, timeout: Timeout = CLIENT_TIMEOUT) -> Iterator[ItemResult]:
        """Yield the results that were not handed out yet, in request order.

        timeout is the longest wait for the next chunk, in seconds; None has no limit. Raises
        NoAnswer after it, or BrokerUnreachable if that is the cause; call it again to continue from
        there.
        """
        return iter(lambda: run(self._next_result(timeout, in_order=True)), None)

    def as_completed(self, timeout: Timeout = CLIENT_TIMEOUT) -> Iterator[ItemResult]:
        """Yield results as results() does, but each chunk as soon as it is answered.

        Within a chunk they are in request order. A slow chunk does not delay the others. The key of
        a result identifies its item.
        """
        return iter(lambda: run(self._next_result(timeout, in_order=False)), None)

    manifest = blocking(AsyncBatchHandle.manifest)
    stored = blocking(AsyncBatchHandle.stored)


class BaseGrantHandle(_Handle, Generic[Batch_co]):
    """The part of GrantHandle and AsyncGrantHandle that does not wait."""

    def __init__(self, batch: Batch_co) -> None:
        self.batch = batch

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.batch.state}>"

    @property
    def id(self) -> str:
        """The id of the request: its batch id."""
        return self.batch.id


@checked
class AsyncGrantHandle(BaseGrantHandle[AsyncBatchHandle], Coroutine[Any, Any, Grant]):
    """A requested grant: await it, or pass it to asyncio.create_task().

    batch is the handle of its request, a batch of one item.
    """

    _coroutines: WeakKeyDictionary[asyncio.Task[Any], Coroutine[Any, Any, Grant]] | None = None

    def __await__(self) -> Generator[Any, None, Grant]:
        return self.result().__await__()

    def send(self, value: Any) -> Any:
        """Continue the task that asyncio.create_task() made of this handle."""
        return self._coroutine().send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error in the task that asyncio.create_task() made of this handle."""
        return self._coroutine().throw(*error)

    def close(self) -> None:
        """Do nothing: each task closes its own coroutine."""

    def _coroutine(self) -> Coroutine[Any, Any, Grant]:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a handle is no coroutine of its own: await it in a task")
        if self._coroutines is None:
            self._coroutines = WeakKeyDictionary()
        if task not in self._coroutines:
            self._coroutines[task] = self.result()
        return self._coroutines[task]

    async def result(
        self: BaseGrantHandle[BaseBatchHandle], timeout: Timeout = CLIENT_TIMEOUT
    ) -> Grant:
        """Wait for the grant, at most `timeout` seconds.

        Raises Refused; Expired for the result of an earlier request; NoAnswer or BrokerUnreachable.
        After these two, or if it is cancelled, the request is given up: it is withdrawn unless a
        worker has taken it. Call this again to ask again.
        """
        result = await self.batch._result_at(0, timeout)  # noqa: SLF001 - of this module
        if isinstance(result, Refusal):
            raise Refused(result)
        return cast("Grant", result)  # a batch of one item has one

    async def stored(
        self: BaseGrantHandle[BaseBatchHandle], timeout: TimeLimit = STORED_TIMEOUT
    ) -> StoredObject:
        """Wait for the grant, and then until storage has its object: at most `timeout` seconds.

        Somebody has to use the grant meanwhile. Raises as result() and BatchHandle.stored() do.
        """
        end = time.monotonic() + timeout
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


@checked
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


@checked
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

    Raises ValueError, which names the argument, for a text or a UUID that is no such id.
    """
    if isinstance(subject, BaseGrantHandle | BaseBatchHandle):
        return Subject(subject.id, 0 if isinstance(subject, BaseGrantHandle) else None)
    text = subject.id if isinstance(subject, Grant) else str(subject)
    if is_batch_id(text):
        return Subject(text)
    try:
        return Subject(*split_grant_id(text))
    except ValueError:  # the text may be a link, which is secret
        raise ValueError(
            f"{argument} must be a batch id (a UUIDv7 in lower case) or a grant id (with a dot and "
            "the item's number)"
        ) from None


def read_batch_id(subject: object) -> str:
    """Return the id of a batch, or of the batch of a grant or handle. Raises as read_subject."""
    return read_subject(subject, "batch").batch_id


def read_grant_id(subject: object) -> str:
    """Return the id of a grant, or of the grant of a handle.

    Raises as read_subject does, and ValueError for a batch id.
    """
    batch_id, item = read_subject(subject, "grant")
    if item is None:
        raise ValueError(
            "grant is the id of a batch: add a dot and the item's number, as in the id of a Grant"
        )
    return grant_id(batch_id, item)
