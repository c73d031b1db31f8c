"""What is under way between a client and the service: whose turn it is, and what is silent. Pure.

A courier asks what to do, does it, and tells what came of it; there is one for each way to wait.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, Protocol

from valetkey.crypto.codec import DecodedResult
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.errors import NoAnswer
from valetkey.wire.messages import Reply
from valetkey.wire.pending import PendingMessage
from valetkey.wire.refusals import Refusal

FIRST_CHUNKS_SECONDS = 0.05  # seconds that an errand's first letters have to themselves
_FIRST = 4  # letters: enough for as many workers as share a small machine with who asks

ReceiveResult = Literal["ignored", "useless", "settled"]


class PendingRequest(Protocol):
    """What a courier carries: letters to send, and what becomes of each."""

    failures: int
    postponed: int
    unanswered: dict[str, PendingMessage]

    @property
    def closed(self) -> Refusal | None:
        """Why nothing more of it need be sent."""

    @property
    def missing(self) -> str:
        """What has no answer, to go behind "no answer"."""

    @property
    def all_sent(self) -> bool:
        """Whether next_letter has nothing more to give."""

    def next_letter(self, ahead: float) -> PendingMessage | None:
        """The next letter to send, unless `ahead` of them wait for their reader."""

    def answer(self, letter: PendingMessage, reply: Reply) -> None:
        """Take the answer to a letter."""


class _Start(NamedTuple):
    """Until when, or until which letter is answered, an errand's first letters go alone."""

    ends_at: float
    letter: str


class InFlight:
    """Many errands, whose letters are sent in turn, a window of them at a time."""

    def __init__(self, sender: RetransmitTimer) -> None:
        self._sender = sender
        self._unsent: dict[PendingRequest, None] = {}
        self._new: set[PendingRequest] = set()
        self._starting: dict[PendingRequest, _Start] = {}
        self._again: deque[str] = deque()
        self._sent: dict[str, tuple[PendingRequest, PendingMessage]] = {}
        self._stuck: str | None = None

    @property
    def idle(self) -> bool:
        """Whether all that was taken on is answered or given up."""
        return not self._unsent and not self._sent

    @property
    def errands(self) -> set[PendingRequest]:
        """All that is under way."""
        return {*self._unsent, *(errand for errand, _ in self._sent.values())}

    def take(self, errand: PendingRequest) -> None:
        """Take on an errand, or once more what is left of one that was given up."""
        self._stuck = None  # whoever asks anew tries anew
        if not errand.all_sent and errand not in self._unsent:
            self._unsent[errand] = None
            self._new.add(errand)
        for letter in list(errand.unanswered.values()):
            if letter.name not in self._sent and self._must_go(errand, letter):
                self._again.append(letter.name)

    def drop(self, errand: PendingRequest) -> list[str]:
        """Give an errand up: nothing of it is sent any more; return the letters not to hear of."""
        self._unsent.pop(errand, None)
        self._new.discard(errand)
        self._starting.pop(errand, None)
        names = [name for name, (other, _) in self._sent.items() if other is errand]
        for name in names:
            self._settle(name)
        return names

    def given_up(self, clock: Callable[[], float]) -> Iterator[PendingMessage]:
        """Each letter that was given up and is now to be sent once more.

        Behind one that cannot be sent the others are only due again, as if they had been.
        """
        while self._again:
            name = self._again.popleft()
            if name not in self._sent:
                continue
            if self._is_stuck:
                self._sender.sent(name, clock())
            else:
                yield self._sent[name][1]

    def ahead(self, errand: PendingRequest, most: float, now: float) -> float:
        """How many letters of an errand may be ahead of their reader, at most.

        Few for a moment: to make and to send a whole window takes longer than to answer a letter,
        and who makes them may share a machine with who answers.
        """
        start = self._starting.get(errand)
        return most if start is None or now >= start.ends_at else min(_FIRST, most)

    def turns(self) -> Iterator[PendingRequest]:
        """Each errand that may have a letter to send, in turn, while there is room for one.

        While a letter could not be sent it is nobody's: that one is tried again first, when due.
        """
        for errand in tuple(self._unsent):
            if not self._sender.has_room or self._is_stuck:
                return
            yield errand

    def enters(self, errand: PendingRequest, letter: PendingMessage, now: float) -> bool:
        """Take a letter of an errand on; False where it is answered without being sent."""
        # Served: the others come first. A batch that is read as it comes would take all the room.
        self._unsent.pop(errand, None)
        if not errand.all_sent:
            self._unsent[errand] = None
        self._starts(errand, letter, now)
        return self._must_go(errand, letter)

    @property
    def _is_stuck(self) -> bool:
        """Whether a letter could not be sent, and is still to be."""
        return self._stuck in self._sent

    def _must_go(self, errand: PendingRequest, letter: PendingMessage) -> bool:
        refusal = letter.refusal or errand.closed
        if refusal is not None:
            errand.answer(letter, letter.refused(refusal))
            return False
        self._sent[letter.name] = (errand, letter)
        return True

    def _starts(self, errand: PendingRequest, letter: PendingMessage, now: float) -> None:
        if errand.all_sent:
            self._starting.pop(errand, None)
        elif errand in self._new:
            self._starting[errand] = _Start(now + FIRST_CHUNKS_SECONDS, letter.name)
        self._new.discard(errand)

    def sent(self, name: str, now: float, *, is_stuck: bool = False) -> None:
        """Note that a letter is sent, for the first time or again; or that it could not be."""
        self._stuck = name if is_stuck else None
        if name in self._sent:  # it may have been given up meanwhile
            self._sender.sent(name, now)

    def due(self, now: float) -> list[PendingMessage]:
        """The letters that have been silent for too long."""
        return [self._sent[name][1] for name in self._sender.due(now)]

    def next_time(self, now: float) -> float:
        """When there will be more to send, whatever is answered by then; never is infinity."""
        self._starting = {of: one for of, one in self._starting.items() if one.ends_at > now}
        return min((self._sender.next_due(), *(one.ends_at for one in self._starting.values())))

    @property
    def unanswered(self) -> list[str]:
        """The letters that were sent and wait for their answers, by name."""
        return self._sender.unanswered

    def errand_of(self, name: str) -> PendingRequest | None:
        """Whose letter it is; None where it was answered before, or given up."""
        return self._sent[name][0] if name in self._sent else None

    def receive(self, name: str, answer: DecodedResult, now: float) -> ReceiveResult:
        """Take what came for a letter; what is useless must not be found again."""
        if answer == "working" or name not in self._sent:
            return "ignored"
        errand, letter = self._sent[name]
        if answer != "failed" and letter.is_put_off_by(answer):
            errand.postponed += 1
            self._sender.postponed(name, now)
            return "useless"
        if answer == "failed" or not letter.is_answered_by(answer):
            errand.failures += 1  # as good as silence: it is sent again when due
            return "useless"
        self._settle(name)
        if errand in self._starting and self._starting[errand].letter == name:
            del self._starting[errand]
        errand.answer(letter, answer)
        return "settled"

    def _settle(self, name: str) -> None:
        del self._sent[name]
        self._sender.settled(name)


def no_answer(errand: PendingRequest, seconds: float) -> NoAnswer:
    """Say what of an errand got no answer in that time, and why that may be."""
    why = "is a worker running?"
    if errand.postponed:
        why = "the service has not decided on them, as they have not reached it"
    if errand.failures:
        why = "the worker's log says why it failed"
    return NoAnswer(f"no answer within {seconds:g} s{errand.missing}: {why}")
