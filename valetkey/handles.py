"""What a client gets for a request: the answers, as they come."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Protocol, TypeVar, Unpack

from valetkey.delivery.dispatcher import Dispatcher
from valetkey.delivery.in_flight import FIRST_CHUNKS_SECONDS, PendingRequest, no_answer
from valetkey.delivery.progress import (
    CANCELLED,
    BatchProgress,
    ReopenedBatchProgress,
    SingleRequest,
)
from valetkey.errors import NoAnswer, Refused, ValetkeyError
from valetkey.manifests import DEFAULT_TIMEOUT as UNTIL_WRITTEN
from valetkey.manifests import Manifest
from valetkey.wire.messages import Grant, Outcome, Reply
from valetkey.wire.options import Options
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import QuotaState, Refusal

DEFAULT_TIMEOUT = 30.0  # seconds
READ_ALREADY = "the grant was read from its batch already"

ManifestWaiter = Callable[[str, float], Manifest]
"""Waits for the manifest of the batch with an id, so many seconds."""


_LAST = 1.0  # seconds in which the service may yet say that the deadline has passed


Seconds = TypeVar("Seconds", float, float | None)


def wait_limit(progress: BatchProgress, timeout: Seconds) -> Seconds:
    """How long to wait for a batch, in seconds: timeout, but not beyond its deadline."""
    if progress.deadline is None:
        return timeout
    left = max((progress.deadline - datetime.now(UTC)).total_seconds(), _LAST)
    return left if timeout is None else min(timeout, left)


class BaseBatchHandle:
    """How far a batch has come, as far as its answers were heard."""

    def __init__(self, progress: BatchProgress) -> None:
        self._progress = progress

    @property
    def id(self) -> str:
        """The batch's id, by which any process of the tenant reopens it."""
        return self._progress.id

    @property
    def total(self) -> int:
        """How many items it has."""
        return self._progress.total

    @property
    def issued(self) -> int:
        """How many items were granted so far."""
        return self._progress.issued

    @property
    def refused(self) -> int:
        """How many items were refused so far."""
        return self._progress.refused

    @property
    def remaining(self) -> int:
        """How many items are not decided yet."""
        return self._progress.remaining

    @property
    def refusal(self) -> Refusal | None:
        """Why the service refused the batch as a whole, or that it was cancelled.

        Each item not granted then gets that refusal.
        """
        return self._progress.refusal

    @property
    def quotas(self) -> list[QuotaState]:
        """How the tenant's quotas stood with the newest answer."""
        return self._progress.quotas

    def stop(self) -> None:
        """Send no more of it: what was not sent comes out refused. Client.cancel does that."""
        self._progress.close(CANCELLED)


class BatchHandle(BaseBatchHandle):
    """A batch under way; iterate it for one Grant or Refusal an item, in the order asked.

    Items are handed out once, and chunks are sent as they are read, so that a batch of any size
    takes little memory.
    """

    def __init__(
        self, courier: Dispatcher, progress: BatchProgress, ask_for_manifest: ManifestWaiter
    ) -> None:
        super().__init__(progress)
        self._courier = courier
        self._ask_for_manifest = ask_for_manifest

    def __iter__(self) -> Iterator[Grant | Refusal]:
        return self.results()

    def results(self, timeout: float = DEFAULT_TIMEOUT) -> Iterator[Grant | Refusal]:
        """The answers that were not handed out yet, in the order asked.

        timeout is the longest wait for the next chunk, in seconds. Raises NoAnswer after it (or
        BrokerUnreachable, where that is why); call again to ask again from there.
        """
        progress = self._progress
        return self._answers(lambda: progress.has_next, progress.read_next, timeout)

    def as_completed(self, timeout: float = DEFAULT_TIMEOUT) -> Iterator[Grant | Refusal]:
        """The same, but chunk by chunk as they are answered; within one, in the order asked.

        A chunk that is slow keeps none of the others waiting, and its key tells which item an
        answer is to.
        """
        progress = self._progress
        return self._answers(lambda: progress.has_any, progress.read_any, timeout)

    def manifest(self, timeout: float = UNTIL_WRITTEN) -> Manifest:
        """Have all of it decided, and wait for the file that the answers are written to.

        timeout is the longest wait for the next chunk, and then for the file, in seconds. The link
        to it is charged as any other. Raises Refused where the batch is, or the link; NotStored
        where the file cannot be written; ValueError where none was asked for; NoAnswer or
        BrokerUnreachable: call again to go on.
        """
        if not isinstance(self._progress, ReopenedBatchProgress):
            for _ in self.results(timeout):
                pass
            if self.refusal is not None and not self.issued:
                raise Refused(self.refusal)
        return self._ask_for_manifest(self.id, timeout)

    def _answers(
        self, is_there: Callable[[], bool], read: Callable[[], None], timeout: float
    ) -> Iterator[Grant | Refusal]:
        progress = self._progress
        self._courier.take(progress)
        while not progress.all_read:
            if not progress.ready:
                seconds = wait_limit(progress, timeout)
                if not (is_there() or self._courier.wait(is_there, seconds)):
                    raise _given_up(self._courier, progress, seconds)
                read()
            while progress.ready:
                yield progress.ready.popleft()
            if not progress.all_read:
                self._courier.wait(is_there, 0)  # what was read makes room for more


def start_batch(
    courier: Dispatcher, progress: BatchProgress, ask_for_manifest: ManifestWaiter
) -> BatchHandle:
    """Send what there is room for of a batch, or until its first answer is there.

    Raises NoAnswer (or BrokerUnreachable, where that is why) where nothing of it can be sent.
    """
    courier.take(progress)
    if not courier.wait(lambda: progress.started, DEFAULT_TIMEOUT):
        courier.drop(progress)
        raise courier.trouble or NoAnswer("too much is unanswered to ask for more")
    courier.wait(lambda: progress.has_next or progress.all_sent, FIRST_CHUNKS_SECONDS)
    return BatchHandle(courier, progress, ask_for_manifest)


def wait_for_reply(courier: Dispatcher, letter: PendingMessage, timeout: float) -> Reply:
    """Ask something that is answered by one reply, and wait for it, at most `timeout` seconds.

    Raises Refused, NoAnswer, BrokerUnreachable.
    """
    question = SingleRequest(letter)
    courier.take(question)
    courier.wait(lambda: question.reply is not None, timeout)
    if question.reply is None:
        raise _given_up(courier, question, timeout)
    if isinstance(question.reply, Outcome) and question.reply.refusal is not None:
        raise Refused(question.reply.refusal)
    return question.reply


def _given_up(courier: Dispatcher, errand: PendingRequest, seconds: float) -> ValetkeyError:
    courier.drop(errand)
    return courier.trouble or no_answer(errand, seconds)


class GrantHandle:
    """A single grant under way; batch is its request, a batch of one."""

    def __init__(self, batch: BatchHandle) -> None:
        self.batch = batch
        self._result: Grant | Refusal | None = None

    @property
    def id(self) -> str:
        """The id of the request."""
        return self.batch.id

    def result(self, timeout: float = DEFAULT_TIMEOUT) -> Grant:
        """Wait for the grant, at most `timeout` seconds.

        Raises Refused, NoAnswer or BrokerUnreachable, and after the latter two, call again to ask
        again; RuntimeError where its batch was read instead.
        """
        if self._result is None:
            self._result = next(self.batch.results(timeout), None)
        if self._result is None:
            raise RuntimeError(READ_ALREADY)
        if isinstance(self._result, Refusal):
            raise Refused(self._result)
        return self._result


class PartsRequester(Protocol):
    """Client.parts, for one bucket."""

    def __call__(
        self, grant: Grant, first: int = 1, last: int | None = None, **options: Unpack[Options]
    ) -> BatchHandle:
        """Ask for the URLs of some parts."""


class MultipartHandle(GrantHandle):
    """A multipart upload under way: its result says how to cut the file, and ends the upload."""

    def __init__(self, batch: BatchHandle, ask: PartsRequester) -> None:
        super().__init__(batch)
        self._ask = ask

    def parts(
        self, first: int = 1, last: int | None = None, **options: Unpack[Options]
    ) -> BatchHandle:
        """Ask for URLs that each take one part, from first to last; None is the last of all.

        Whoever uploads slowly asks for a few at a time, and again for those that have expired.
        Raises as result() does, and ValueError where there are no such parts.
        """
        return self._ask(self.result(), first, last, **options)
