"""Tracks which parts of a request were sent, answered and read. Pure."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, cast

from valetkey.delivery.pending_request import PendingRequest
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.replies import BatchState, Grant, Outcome, Reply

CANCELLED = Refusal(code=Code.BATCH_CLOSED, field="batch", message="the batch was cancelled")
_MAX_UNREAD = 1_000  # batches of a client whose unread refusals are kept
_HEADER = {"batch", "total", "chunk_size", "expires_in"}
_PROBES = 4  # chunks of a reopened batch that are requested although they may be undecided


class BatchProgress(PendingRequest):
    """The progress of a batch.

    messages yields None while its next message is not ready. refusal is set once the batch is
    refused as a whole; each item without a grant then gets that refusal, with its object key.
    expires_in is the lifetime in seconds that was requested, 0 if it is not known. on_progress is
    called with the numbers of decided and of all items whenever a chunk is read. handed_out is the
    number of results that were handed out.
    unread_refusals gets a refusal under the batch's id until one of its results is read.
    Raises ValueError if the batch has no chunk first_chunk.
    """

    def __init__(
        self,
        header: Mapping[str, Any],
        messages: Iterator[PendingMessage | None],
        first_chunk: int = 0,
    ) -> None:
        super().__init__()
        self.id: str = header["batch"]
        self.total: int = header["total"]
        self.deadline = _parse_deadline(header.get("deadline"))
        self.expires_in: int = header.get("grant", header).get("expires_in") or 0
        self.on_progress: Callable[[int, int], object] | None = None
        self.unread_refusals: dict[str, Refusal] = {}
        self.refusal: Refusal | None = None
        self.quotas: list[QuotaState] = []
        self.handed_out = 0  # results
        self.ready_results: deque[Grant | Refusal] = deque()
        self._messages = messages
        self._items_error: BaseException | None = None
        self._is_reading_items = False
        self._chunk_count: int = -(-self.total // header["chunk_size"])
        if not 0 <= first_chunk <= self._chunk_count:
            count = self._chunk_count
            raise ValueError(f"the batch has {count} chunks: first_chunk must be from 0 to {count}")
        self._issued = self._refused = 0
        self._first_chunk = self._sent_chunks = self._read_chunks = first_chunk
        self._skipped_items: int = first_chunk * header["chunk_size"]
        self._next_chunk = first_chunk
        self._read_early: set[int] = set()  # chunks read before one that precedes them
        self._results: dict[int, list[Grant | Refusal]] = {}  # by chunk number

    @property
    def issued(self) -> int:
        """The number of items granted so far."""
        return self._issued

    @property
    def refused(self) -> int:
        """The number of items refused so far."""
        return self._refused

    @property
    def remaining(self) -> int:
        """The number of items that are not decided yet."""
        return self.total - self._skipped_items - self.issued - self.refused

    @property
    def unanswered_hint(self) -> str:
        """The number of items without a result, as the end of an error message."""
        count = self.total - self._skipped_items - self._issued - self._refused
        return f" to {count} of {self.total} items"

    @property
    def has_started(self) -> bool:
        """True once a chunk was given to the dispatcher, or if there is none."""
        return self._sent_chunks > self._first_chunk or self.is_fully_sent

    @property
    def is_fully_sent(self) -> bool:
        """True once every chunk was given to the dispatcher."""
        return self._sent_chunks == self._chunk_count

    @property
    def closing_refusal(self) -> Refusal | None:
        """The refusal that all unsent chunks get; None while chunks are to be sent."""
        return self.refusal

    def next_message(self, unread_limit: float) -> PendingMessage | None:
        """Return the next chunk to send, or None if there is none yet.

        It returns none while the reader has not read `unread_limit` of the sent chunks. Raises the
        error of the items' iterable, and RuntimeError in later calls: the items read so far are
        lost.
        """
        if self.is_fully_sent or self._sent_chunks - self._read_chunks >= unread_limit:
            return None
        if self._is_reading_items:  # the items are results of the same client: reading them sends
            return None
        if self._items_error is not None:
            raise RuntimeError("the items of the batch could not be read") from self._items_error
        self._is_reading_items = True
        try:
            message = next(self._messages)
        except BaseException as error:
            self._items_error = error
            raise
        finally:
            self._is_reading_items = False
        if message is not None:
            self._sent_chunks += 1
            self.unanswered[message.task_id] = message
        return message

    def receive_reply(self, message: PendingMessage, reply: Reply) -> None:
        """Record the reply to a chunk."""
        outcome = cast("Outcome", reply)  # message.is_answered_by has checked it
        del self.unanswered[message.task_id]
        if outcome.refusal is not None:
            self.close(outcome.refusal)
        results = message.item_results(outcome)
        granted = sum(isinstance(result, Grant) for result in results)
        in_manifest = 0 if outcome.refusal else outcome.issued or 0
        self._issued += granted + in_manifest
        self._refused += len(results) - granted
        if granted < len(results) and self.refusal is not CANCELLED:
            refusal = next(result for result in results if isinstance(result, Refusal))
            if len(self.unread_refusals) < _MAX_UNREAD:
                self.unread_refusals.setdefault(self.id, refusal)
        if not outcome.refusal:
            self._refused += outcome.refused or 0
        self.quotas = outcome.quotas or self.quotas
        self._results[message.chunk_number] = results

    def count_refused_renewal(self) -> None:
        """Record that a grant has expired, and was refused when it was requested again."""
        self._issued -= 1
        self._refused += 1

    def mark_refusals_read(self) -> None:
        """Report that somebody has looked at the results."""
        self.unread_refusals.pop(self.id, None)

    def close(self, refusal: Refusal) -> None:
        """Send no more chunks: the items of unsent chunks get this refusal."""
        self.refusal = self.refusal or refusal

    @property
    def is_fully_read(self) -> bool:
        """True once every item result was handed out."""
        return not self.ready_results and self._read_chunks == self._chunk_count

    def has_chunk(self, *, in_order: bool = True) -> bool:
        """Return true if a chunk can be read: the next one of the request, or else any."""
        return self._next_chunk in self._results if in_order else bool(self._results)

    def read_chunk(self, *, in_order: bool = True) -> None:
        """Move the results of a chunk to ready_results: of the next, or of the first answered."""
        self.mark_refusals_read()
        number = self._next_chunk if in_order else next(iter(self._results))
        self.ready_results.extend(self._results.pop(number))
        self._read_chunks += 1
        self._read_early.add(number)
        while self._next_chunk in self._read_early:
            self._read_early.remove(self._next_chunk)
            self._next_chunk += 1
        if self.on_progress is not None:
            self.on_progress(self.total - self.remaining, self.total)


def _parse_deadline(text: str | None) -> datetime | None:
    """Return an aware datetime; None if the text is none, which the service then refuses."""
    try:
        deadline = datetime.fromisoformat(text or "")
    except (TypeError, ValueError):
        return None
    return deadline if deadline.tzinfo else None


class ReopenedBatchProgress(BatchProgress):
    """The progress of a batch that another process requested, and may still be sending.

    Its object keys are unknown, so its chunks are requested until each one is decided. refusal is
    the refusal of the batch at the time of reopening.
    """

    def __init__(self, state: BatchState, messages: Iterator[PendingMessage]) -> None:
        super().__init__(state.model_dump(include=_HEADER), messages)
        self.refusal = state.refusal or (CANCELLED if state.cancelled else None)
        self._state = state

    @property
    def issued(self) -> int:
        """The number of items known to be granted."""
        return max(self._issued, 0 if self._has_all_results else self._state.issued)

    @property
    def refused(self) -> int:
        """The number of items known to be refused."""
        return max(self._refused, 0 if self._has_all_results else self._state.refused)

    @property
    def remaining(self) -> int:
        """The number of items that are not known to be decided."""
        return max(super().remaining, 0)

    @property
    def closing_refusal(self) -> Refusal | None:
        """Always None: decided chunks can be read even if the rest of the batch was refused."""
        return None

    def next_message(self, unread_limit: float) -> PendingMessage | None:
        """Return the next chunk to request; only a few may be undecided at a time."""
        known = max(self._state.decided, self._sent_chunks - len(self.unanswered))
        return super().next_message(unread_limit) if self._sent_chunks < known + _PROBES else None

    def close(self, refusal: Refusal) -> None:
        """Do nothing: the refusal of one chunk does not apply to the others."""

    @property
    def _has_all_results(self) -> bool:
        return self._issued + self._refused == self.total


class SingleRequest(PendingRequest):
    """The progress of a request of one message and one reply."""

    is_fully_sent = False

    def __init__(self, message: PendingMessage) -> None:
        super().__init__()
        self.reply: Reply | None = None
        self._message = message

    def next_message(self, unread_limit: float) -> PendingMessage | None:  # noqa: ARG002 - as in all requests
        """Return the message, once."""
        if self.is_fully_sent:
            return None
        self.is_fully_sent = True
        self.unanswered[self._message.task_id] = self._message
        return self._message

    def receive_reply(self, message: PendingMessage, reply: Reply) -> None:
        """Record the reply."""
        del self.unanswered[message.task_id]
        self.reply = reply
