"""The handles that a Client returns: they read results as they arrive."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Protocol, TypeVar, Unpack

from valetkey.delivery.dispatcher import Dispatcher
from valetkey.delivery.in_flight import HEAD_START_SECONDS
from valetkey.delivery.pending_request import ServiceOutage
from valetkey.delivery.progress import (
    CANCELLED,
    BatchProgress,
    ReopenedBatchProgress,
    SingleRequest,
)
from valetkey.errors import NoAnswer, Refused
from valetkey.manifests import DEFAULT_TIMEOUT as MANIFEST_TIMEOUT
from valetkey.manifests import Manifest
from valetkey.wire.options import RequestOptions
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import QuotaState, Refusal
from valetkey.wire.replies import Grant, Outcome, Reply

DEFAULT_TIMEOUT = 30.0  # seconds
ALREADY_READ = "the grant was already read from its batch"

ManifestWaiter = Callable[[str, float], Manifest]
"""Waits for the manifest of the batch with this id, at most this many seconds."""

_MIN_WAIT = 1.0  # seconds in which the service can still reply that the deadline has passed

Seconds = TypeVar("Seconds", float, float | None)


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


class BatchHandle(BaseBatchHandle):
    """A requested batch; iterate it for one Grant or Refusal per item, in request order.

    Each item is handed out once. Chunks are sent as results are read, so a batch of any size takes
    little memory.
    """

    def __init__(
        self, dispatcher: Dispatcher, progress: BatchProgress, wait_for_manifest: ManifestWaiter
    ) -> None:
        super().__init__(progress)
        self._dispatcher = dispatcher
        self._wait_for_manifest = wait_for_manifest

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
        return self._wait_for_manifest(self.id, timeout)

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
    dispatcher: Dispatcher, progress: BatchProgress, wait_for_manifest: ManifestWaiter
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
    return BatchHandle(dispatcher, progress, wait_for_manifest)


def request_reply(dispatcher: Dispatcher, message: PendingMessage, timeout: float) -> Reply:
    """Send a message that has one reply, and wait for it, at most `timeout` seconds.

    Raises Refused, NoAnswer, BrokerUnreachable.
    """
    request = SingleRequest(message)
    dispatcher.add(request)
    dispatcher.wait(lambda: request.reply is not None, timeout)
    if request.reply is None:
        raise dispatcher.give_up(request, timeout)
    if isinstance(request.reply, Outcome) and request.reply.refusal is not None:
        raise Refused(request.reply.refusal)
    return request.reply


class GrantHandle:
    """A requested grant. batch is the handle of its request, a batch of one item."""

    def __init__(self, batch: BatchHandle) -> None:
        self.batch = batch
        self._result: Grant | Refusal | None = None

    @property
    def id(self) -> str:
        """The id of the request: its batch id."""
        return self.batch.id

    def result(self, timeout: float = DEFAULT_TIMEOUT) -> Grant:
        """Wait for the grant, at most `timeout` seconds.

        Raises Refused; RuntimeError if the grant was read from the batch instead; NoAnswer or
        BrokerUnreachable, after which you can call it again to ask again.
        """
        if self._result is None:
            self._result = next(self.batch.results(timeout), None)
        if self._result is None:
            raise RuntimeError(ALREADY_READ)
        if isinstance(self._result, Refusal):
            raise Refused(self._result)
        return self._result


class PartsRequester(Protocol):
    """A callable like Client.parts whose bucket is already given."""

    def __call__(
        self, grant: Grant, first: int, last: int | None, **options: Unpack[RequestOptions]
    ) -> BatchHandle:
        """Request the URLs of some parts."""


class MultipartHandle(GrantHandle):
    """A requested multipart upload: wait for its grant, and request part URLs."""

    def __init__(self, batch: BatchHandle, request_parts: PartsRequester) -> None:
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
