"""The handles that a Client returns: they read results as they arrive."""

import secrets
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Generic, NamedTuple, Protocol, TypeVar, Unpack

from valetkey.delivery.dispatcher import Dispatcher
from valetkey.delivery.dispatcher import request_reply as request_reply  # noqa: PLC0414 - as before
from valetkey.delivery.pending_request import HEAD_START_SECONDS, ServiceOutage
from valetkey.delivery.progress import CANCELLED, BatchProgress, ReopenedBatchProgress
from valetkey.errors import NoAnswer, Refused
from valetkey.waits import (
    MANIFEST_TIMEOUT,
    STORED_TIMEOUT,
    Manifest,
    StoredObject,
    require_seconds,
)
from valetkey.wire.chunking import uuid7
from valetkey.wire.grant_ids import grant_id, split_grant_id
from valetkey.wire.options import RequestOptions
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import Grant

DEFAULT_TIMEOUT = 30.0  # seconds

_MIN_WAIT = 1.0  # seconds in which the service can still reply that the deadline has passed

Seconds = TypeVar("Seconds", float, float | None)
ManifestResult = TypeVar("ManifestResult")
StoredResult = TypeVar("StoredResult")
Batch_co = TypeVar("Batch_co", bound="BaseBatchHandle", covariant=True)


def new_id() -> str:
    """Return a new UUIDv7: a batch id, or the task id of a request that is not a batch."""
    return uuid7(time.time_ns() // 10**6, secrets.token_bytes(10))


def wait_limit(progress: BatchProgress, timeout: Seconds) -> Seconds:
    """Return how many seconds to wait for a batch: `timeout`, but not beyond its deadline."""
    if progress.deadline is None:
        return timeout
    seconds = max((progress.deadline - datetime.now(UTC)).total_seconds(), _MIN_WAIT)
    return seconds if timeout is None else min(timeout, seconds)


class BaseBatchHandle:
    """The part of BatchHandle and AsyncBatchHandle that does not wait."""

    def __init__(self, progress: BatchProgress) -> None:
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


class BaseGrantHandle(Generic[Batch_co]):
    """The part of GrantHandle and AsyncGrantHandle that does not wait."""

    def __init__(self, batch: Batch_co) -> None:
        self.batch = batch
        self._result: Grant | Refusal | None = None

    @property
    def id(self) -> str:
        """The id of the request: its batch id."""
        return self.batch.id

    def _grant(self) -> Grant:
        if self._result is None:
            raise RuntimeError("the grant was already read from its batch")
        if isinstance(self._result, Refusal):
            raise Refused(self._result)
        return self._result


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


class Waiters(NamedTuple, Generic[ManifestResult, StoredResult]):
    """The waits of a handle that send requests of their own, each at most so many seconds.

    manifest waits for that of the batch with an id, stored for the object of an item of it.
    """

    manifest: Callable[[str, float], ManifestResult]
    stored: Callable[[str, int, float], StoredResult]


BlockingWaiters = Waiters[Manifest, StoredObject]


class BatchHandle(BaseBatchHandle):
    """A requested batch; iterate it for one Grant or Refusal per item, in request order.

    Each item is handed out once. Chunks are sent as results are read, so a batch of any size takes
    little memory.
    """

    def __init__(
        self, dispatcher: Dispatcher, progress: BatchProgress, waiters: BlockingWaiters
    ) -> None:
        super().__init__(progress)
        self._dispatcher = dispatcher
        self._waiters = waiters

    def __iter__(self) -> Iterator[Grant | Refusal]:
        return self.results()

    def results(self, timeout: float = DEFAULT_TIMEOUT) -> Iterator[Grant | Refusal]:
        """Yield the results that were not handed out yet, in request order.

        timeout is the longest wait for the next chunk, in seconds. Raises NoAnswer after it, or
        BrokerUnreachable if that is the cause; call it again to continue from there.
        """
        progress = self._progress
        return self._read_results(
            lambda: progress.has_next_chunk, progress.read_next_chunk, timeout
        )

    def as_completed(self, timeout: float = DEFAULT_TIMEOUT) -> Iterator[Grant | Refusal]:
        """Yield results as results() does, but each chunk as soon as it is answered.

        Within a chunk they are in request order. A slow chunk does not delay the others. The key of
        a result identifies its item.
        """
        progress = self._progress
        return self._read_results(lambda: progress.has_any_chunk, progress.read_any_chunk, timeout)

    def manifest(self, timeout: float = MANIFEST_TIMEOUT) -> Manifest:
        """Wait until the batch is decided, and then for the file with its results.

        timeout is the longest wait for the next chunk, and then for the file, in seconds. The link
        to the file is charged as any other. Raises Refused if the batch or the link is refused,
        StorageError if the file cannot be written, and ValueError if the batch has no manifest.
        After NoAnswer or BrokerUnreachable, call it again to continue.
        """
        if not isinstance(self._progress, ReopenedBatchProgress):
            for _ in self.results(timeout):
                pass
            if self.refusal is not None and not self.issued:
                raise Refused(self.refusal)
        return self._waiters.manifest(self.id, timeout)

    def stored(self, item: int, timeout: float = STORED_TIMEOUT) -> StoredObject:
        """Wait until storage has the object of an item, at most `timeout` seconds.

        item is its number in the batch, from 0. Any process of the tenant can wait: see
        Client.batch. Raises NotStored if the object is not there in time, or not as granted;
        Refused if the service does not know the batch yet, and ValueError if the batch has no such
        item, or its grants store no object. After NoAnswer or BrokerUnreachable, call it again.
        """
        self.check_item(item)
        return self._waiters.stored(self.id, item, timeout)

    def _read_results(
        self, is_ready: Callable[[], bool], read_chunk: Callable[[], None], timeout: float
    ) -> Iterator[Grant | Refusal]:
        progress = self._progress
        self._dispatcher.add(progress)
        while not progress.is_fully_read:
            if not progress.ready_results:
                seconds = wait_limit(progress, timeout)
                if not (is_ready() or self._dispatcher.wait(is_ready, seconds)):
                    raise self._dispatcher.give_up(progress, seconds)
                read_chunk()
            while progress.ready_results:
                yield progress.ready_results.popleft()
            if not progress.is_fully_read:
                self._dispatcher.wait(is_ready, 0)  # reading a chunk made room to send another


def start_batch(
    dispatcher: Dispatcher, progress: BatchProgress, waiters: BlockingWaiters
) -> BatchHandle:
    """Send chunks until the window is full or the first result arrives; return the batch's handle.

    Raises NoAnswer, or BrokerUnreachable if that is the cause, if no chunk can be sent.
    """
    dispatcher.add(progress)
    if not dispatcher.wait(lambda: progress.has_started, DEFAULT_TIMEOUT):
        dispatcher.drop(progress)
        raise dispatcher.outage or NoAnswer(
            f"no chunk could be sent within {DEFAULT_TIMEOUT:g} s: too many messages are unanswered"
        )
    dispatcher.wait(lambda: progress.has_next_chunk or progress.is_fully_sent, HEAD_START_SECONDS)
    return BatchHandle(dispatcher, progress, waiters)


class GrantHandle(BaseGrantHandle[BatchHandle]):
    """A requested grant. batch is the handle of its request, a batch of one item."""

    def result(self, timeout: float = DEFAULT_TIMEOUT) -> Grant:
        """Wait for the grant, at most `timeout` seconds.

        Raises Refused; RuntimeError if the grant was read from the batch instead; NoAnswer or
        BrokerUnreachable, after which you can call it again to ask again.
        """
        if self._result is None:
            self._result = next(self.batch.results(timeout), None)
        return self._grant()

    def stored(self, timeout: float = STORED_TIMEOUT) -> StoredObject:
        """Wait for the grant, and then until storage has its object: at most `timeout` seconds.

        Somebody has to use the grant meanwhile. Raises as result() and BatchHandle.stored() do.
        """
        end = time.monotonic() + require_seconds(timeout)
        self.result(timeout)
        return self.batch.stored(0, max(end - time.monotonic(), 0))


class PartsRequester(Protocol[Batch_co]):
    """A callable like a client's method parts() whose bucket is already given."""

    def __call__(
        self, grant: Grant, first: int, last: int | None, **options: Unpack[RequestOptions]
    ) -> Batch_co:
        """Request the URLs of some parts."""


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
