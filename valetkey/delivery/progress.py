"""How far what was asked has come: what of it was sent, answered and read. Pure."""

from collections import deque
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, cast

from valetkey.wire.messages import Grant, Outcome, Reply
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Code, QuotaState, Refusal
from valetkey.wire.states import BatchState

CANCELLED = Refusal(code=Code.BATCH_CLOSED, field="batch", message="the batch was cancelled")
_PROBES = 4  # chunks of a reopened batch asked for that may not be decided yet


class BatchProgress:
    """A batch under way.

    letters yields None where its next letter is not there yet. refusal is set once the batch is
    refused as a whole; each item not granted then gets that refusal, with its key. Raises
    ValueError where the batch has no chunk first_chunk.
    """

    def __init__(
        self,
        header: Mapping[str, Any],
        letters: Iterator[PendingMessage | None],
        first_chunk: int = 0,
    ) -> None:
        self.id: str = header["batch"]
        self.total: int = header["total"]
        self.deadline = _moment(header.get("deadline"))
        self.failures = 0
        self.postponed = 0
        self.refusal: Refusal | None = None
        self.quotas: list[QuotaState] = []
        self.unanswered: dict[str, PendingMessage] = {}
        self.ready: deque[Grant | Refusal] = deque()
        self._letters = letters
        self._broken: BaseException | None = None
        self._is_reading = False
        self._count: int = -(-self.total // header["chunk_size"])
        if not 0 <= first_chunk <= self._count:
            raise ValueError(f"the batch has {self._count} chunks: first_chunk is one of them")
        self._issued = 0
        self._refused = 0
        self._first = first_chunk
        self._left_out: int = first_chunk * header["chunk_size"]
        self._sent = first_chunk
        self._read = first_chunk
        self._next = first_chunk
        self._read_ahead: set[int] = set()  # those read before chunks that come first
        self._answers: dict[int, list[Grant | Refusal]] = {}

    @property
    def issued(self) -> int:
        """How many items were granted so far."""
        return self._issued

    @property
    def refused(self) -> int:
        """How many items were refused so far."""
        return self._refused

    @property
    def remaining(self) -> int:
        """How many items are not decided yet."""
        return self.total - self._left_out - self.issued - self.refused

    @property
    def missing(self) -> str:
        """What has no answer, to go behind "no answer"."""
        left = self.total - self._left_out - self._issued - self._refused
        return f" to {left} of {self.total} items"

    @property
    def started(self) -> bool:
        """Whether any of it was given to the courier."""
        return self._sent > self._first or self.all_sent

    @property
    def all_sent(self) -> bool:
        """Whether every chunk was given to the courier."""
        return self._sent == self._count

    @property
    def closed(self) -> Refusal | None:
        """Why nothing more of it need be sent."""
        return self.refusal

    def next_letter(self, ahead: float) -> PendingMessage | None:
        """The next chunk to send, unless `ahead` of them wait for their reader.

        Raises what reading its items does, and from then on RuntimeError: what was read up to
        there is lost.
        """
        if self.all_sent or self._is_reading or self._sent - self._read >= ahead:
            return None  # its items may be answers of the same client's: to read them sends others
        if self._broken is not None:
            raise RuntimeError("the items of the batch could not be read") from self._broken
        self._is_reading = True
        try:
            letter = next(self._letters)
        except BaseException as error:
            self._broken = error
            raise
        finally:
            self._is_reading = False
        if letter is not None:
            self._sent += 1
            self.unanswered[letter.name] = letter
        return letter

    def answer(self, letter: PendingMessage, reply: Reply) -> None:
        """Take the answer to a chunk."""
        outcome = cast("Outcome", reply)  # letter.is_answered_by sees to it
        del self.unanswered[letter.name]
        if outcome.refusal is not None:
            self.close(outcome.refusal)
        answers = letter.answers(outcome)
        granted = sum(isinstance(answer, Grant) for answer in answers)
        in_manifest = 0 if outcome.refusal else outcome.issued or 0
        self._issued += granted + in_manifest
        self._refused += len(answers) - granted
        if not outcome.refusal:
            self._refused += outcome.refused or 0
        self.quotas = outcome.quotas or self.quotas
        self._answers[letter.number] = answers

    def close(self, refusal: Refusal) -> None:
        """Send no more of it: what was not sent comes out refused."""
        self.refusal = self.refusal or refusal

    @property
    def all_read(self) -> bool:
        """Whether every answer was handed out."""
        return not self.ready and self._read == self._count

    @property
    def has_next(self) -> bool:
        """Whether the chunk that is to be read next is answered."""
        return self._next in self._answers

    @property
    def has_any(self) -> bool:
        """Whether any chunk is answered that was not read."""
        return bool(self._answers)

    def read_next(self) -> None:
        """Make the answers of the next chunk ready, in the order asked."""
        self._make_ready(self._next)

    def read_any(self) -> None:
        """Make the answers of the chunk ready that was answered first."""
        self._make_ready(next(iter(self._answers)))

    def _make_ready(self, number: int) -> None:
        self.ready.extend(self._answers.pop(number))
        self._read += 1
        self._read_ahead.add(number)
        while self._next in self._read_ahead:
            self._read_ahead.remove(self._next)
            self._next += 1


def _moment(text: str | None) -> datetime | None:
    """An aware moment; of what is none, the service says so."""
    try:
        moment = datetime.fromisoformat(text or "")
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None


class ReopenedBatchProgress(BatchProgress):
    """A batch that was asked for elsewhere, by a process that may still be at it.

    No keys are known, so its chunks are asked for again until each is decided. refusal is of the
    batch as it was found.
    """

    def __init__(self, state: BatchState, letters: Iterator[PendingMessage]) -> None:
        found = {"batch": state.batch, "total": state.total, "chunk_size": state.chunk_size}
        super().__init__(found, letters)
        self.refusal = state.refusal or (CANCELLED if state.cancelled else None)
        self._state = state

    @property
    def issued(self) -> int:
        """How many items were granted, as far as is known."""
        return max(self._issued, 0 if self._knows_all else self._state.issued)

    @property
    def refused(self) -> int:
        """How many items were refused, as far as is known."""
        return max(self._refused, 0 if self._knows_all else self._state.refused)

    @property
    def remaining(self) -> int:
        """How many items are not decided yet, as far as is known."""
        return max(super().remaining, 0)

    @property
    def closed(self) -> Refusal | None:
        """Nothing: what was decided is there to be read whatever became of the rest."""
        return None

    def next_letter(self, ahead: float) -> PendingMessage | None:
        """The next chunk to ask for; few of those that may not be decided yet."""
        known = max(self._state.decided, self._sent - len(self.unanswered))
        return super().next_letter(ahead) if self._sent < known + _PROBES else None

    def close(self, refusal: Refusal) -> None:
        """Do nothing: a refused chunk says nothing of the others."""

    @property
    def _knows_all(self) -> bool:
        return self._issued + self._refused == self.total


class SingleRequest:
    """One message that is answered by one reply."""

    def __init__(self, letter: PendingMessage) -> None:
        self.closed: Refusal | None = None
        self.failures = 0
        self.postponed = 0
        self.missing = ""
        self.all_sent = False
        self.unanswered: dict[str, PendingMessage] = {}
        self.reply: Reply | None = None
        self._letter = letter

    def next_letter(self, ahead: float) -> PendingMessage | None:  # noqa: ARG002 - as Progress has it
        """The message, once."""
        if self.all_sent:
            return None
        self.all_sent = True
        self.unanswered[self._letter.name] = self._letter
        return self._letter

    def answer(self, letter: PendingMessage, reply: Reply) -> None:
        """Take its answer."""
        del self.unanswered[letter.name]
        self.reply = reply
