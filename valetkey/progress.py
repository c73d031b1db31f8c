"""How far what was asked has come: what of it was sent, answered and read. Pure."""

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, cast

from valetkey.letters import Letter
from valetkey.messages import Grant, Outcome, Reply
from valetkey.refusals import Code, QuotaState, Refusal

_CANCELLED = Refusal(code=Code.BATCH_CLOSED, field="batch", message="the batch was cancelled")


class Progress:
    """A batch under way.

    refusal is set once the batch is refused as a whole; each item not granted then gets that
    refusal, with its key. quotas are the tenant's, as they stood with the newest answer.
    """

    def __init__(self, header: Mapping[str, Any], letters: Iterator[Letter]) -> None:
        self.id: str = header["batch"]
        self.total: int = header["total"]
        self.issued = 0
        self.refused = 0
        self.failures = 0
        self.refusal: Refusal | None = None
        self.quotas: list[QuotaState] = []
        self.unanswered: dict[str, Letter] = {}
        self.ready: deque[Grant | Refusal] = deque()
        self._letters = letters
        self._count: int = -(-self.total // header["chunk_size"])
        self._sent = 0
        self._read = 0
        self._answers: dict[int, list[Grant | Refusal]] = {}

    @property
    def remaining(self) -> int:
        """How many items are not decided yet."""
        return self.total - self.issued - self.refused

    @property
    def started(self) -> bool:
        """Whether any of it was given to the courier."""
        return self._sent > 0 or self.all_sent

    @property
    def all_sent(self) -> bool:
        """Whether every chunk was given to the courier."""
        return self._sent == self._count

    def next_letter(self, ahead: float) -> Letter | None:
        """The next chunk to send, unless `ahead` of them wait for their reader."""
        if self.all_sent or self._sent - self._read >= ahead:
            return None
        letter = next(self._letters)
        self._sent += 1
        self.unanswered[letter.name] = letter
        return letter

    def answer(self, letter: Letter, reply: Reply) -> None:
        """Take the answer to a chunk."""
        outcome = cast("Outcome", reply)  # letter.is_answered_by sees to it
        del self.unanswered[letter.name]
        answers = outcome.items
        if outcome.refusal is not None:
            self.refusal = self.refusal or outcome.refusal
            answers = [outcome.refusal.model_copy(update={"key": key}) for key in letter.keys]
        granted = sum(isinstance(answer, Grant) for answer in answers)
        self.issued += granted
        self.refused += len(answers) - granted
        self.quotas = outcome.quotas or self.quotas
        self._answers[letter.number] = answers

    def stop(self) -> None:
        """Send no more of it: what was not sent comes out refused."""
        self.refusal = self.refusal or _CANCELLED

    @property
    def all_read(self) -> bool:
        """Whether every answer was handed out."""
        return not self.ready and self._read == self._count

    @property
    def has_next(self) -> bool:
        """Whether the chunk that is to be read next is answered."""
        return self._read in self._answers

    def read_next(self) -> None:
        """Make the answers of the next chunk ready, in the order asked."""
        self.ready.extend(self._answers.pop(self._read))
        self._read += 1


class Question:
    """One message that is answered by one reply."""

    def __init__(self, letter: Letter) -> None:
        self.refusal: Refusal | None = None
        self.failures = 0
        self.all_sent = False
        self.unanswered: dict[str, Letter] = {}
        self.reply: Reply | None = None
        self._letter = letter

    def next_letter(self, ahead: float) -> Letter | None:  # noqa: ARG002 - as Progress has it
        """The message, once."""
        if self.all_sent:
            return None
        self.all_sent = True
        self.unanswered[self._letter.name] = self._letter
        return self._letter

    def answer(self, letter: Letter, reply: Reply) -> None:
        """Take its answer."""
        del self.unanswered[letter.name]
        self.reply = reply
