"""The reliable sender at work: sends, listens, and sends again what stays silent."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from valetkey.envelopes import Answer, Envelopes
from valetkey.errors import BrokerUnreachable, SealedToAnother
from valetkey.letters import Letter
from valetkey.messages import Reply
from valetkey.refusals import Refusal
from valetkey.sender import WINDOW, Sender
from valetkey.transport import Transport

_POLL = 0.25  # seconds between looks into the store, whatever was announced


class Errand(Protocol):
    """What a courier carries: letters to send, and what becomes of each."""

    refusal: Refusal | None
    failures: int
    unanswered: dict[str, Letter]

    @property
    def all_sent(self) -> bool:
        """Whether next_letter has nothing more to give."""

    def next_letter(self, ahead: float) -> Letter | None:
        """The next letter to send, unless `ahead` of them wait for their reader."""

    def answer(self, letter: Letter, reply: Reply) -> None:
        """Take the answer to a letter."""


class Courier:
    """Runs many errands over one transport, a window of letters at a time."""

    def __init__(
        self,
        transport: Transport,
        envelopes: Envelopes,
        sender: Sender,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport
        self._envelopes = envelopes
        self._sender = sender
        self._clock = clock
        self._sleep = sleep
        self._unsent: list[Errand] = []
        self._sent: dict[str, tuple[Errand, Letter]] = {}
        self._next_look = clock() + _POLL
        self._reached = False
        self._trouble: dict[str, BrokerUnreachable] = {}

    @property
    def idle(self) -> bool:
        """Whether all that was taken on is answered or given up."""
        return not self._unsent and not self._sent

    @property
    def trouble(self) -> BrokerUnreachable | None:
        """Why a server cannot be reached, while it cannot."""
        return next(iter(self._trouble.values()), None)

    def take(self, errand: Errand) -> None:
        """Take on an errand, or once more what is left of one that was given up."""
        self._trouble.clear()  # whoever asks anew tries anew
        if errand not in self._unsent:
            self._unsent.append(errand)
        for letter in list(errand.unanswered.values()):
            if letter.name not in self._sent:
                self._send(errand, letter)

    def drop(self, errand: Errand) -> None:
        """Give an errand up: nothing of it is sent or listened for any more."""
        self._unsent = [other for other in self._unsent if other is not errand]
        self._settle([name for name, (other, _) in self._sent.items() if other is errand])

    def wait(
        self, done: Callable[[], bool], timeout: float | None = None, ahead: float = WINDOW
    ) -> bool:
        """Carry on until done() or for `timeout` seconds; return whether it is done.

        ahead bounds how many letters of an errand may be under way or wait for their reader.
        Raises SealedToAnother for any of them.
        """
        end = float("inf") if timeout is None else self._clock() + timeout
        while True:
            self._fill(ahead)
            self._resend()
            if done():
                return True
            now = self._clock()
            if now >= end:
                return False
            self._listen(max(min(end, self._next_look, self._sender.next_due()) - now, 0))

    def close(self) -> None:
        """Close the transport; what is unanswered is given up."""
        self._transport.close()

    def _fill(self, ahead: float) -> None:
        for errand in list(self._unsent):
            while self._sender.has_room and not self._trouble:
                letter = self._next_letter(errand, ahead)
                if letter is None:
                    break
                self._send(errand, letter)
        self._unsent = [errand for errand in self._unsent if not errand.all_sent]

    def _next_letter(self, errand: Errand, ahead: float) -> Letter | None:
        try:
            return errand.next_letter(ahead)
        except BaseException:  # the caller's own iterable failed: the batch cannot be completed
            self.drop(errand)
            raise

    def _send(self, errand: Errand, letter: Letter) -> None:
        refusal = letter.refusal or errand.refusal
        if refusal is not None:
            errand.answer(letter, letter.refused(refusal))
            return
        self._sent[letter.name] = (errand, letter)
        self._publish(letter.name)

    def _resend(self) -> None:
        for name in self._sender.due(self._clock()):
            if not self._publish(name):
                return  # each try may take seconds: the others wait for the next round

    def _publish(self, name: str) -> bool:
        self._sender.sent(name, self._clock())
        errand, letter = self._sent[name]
        try:
            self._transport.send(name, self._envelopes.around(letter.message), letter.queue)
        except BrokerUnreachable as error:
            if not self._reached:  # rather a wrong URL than a passing outage
                self.drop(errand)
                raise
            self._trouble["broker"] = error
            return False
        self._reached = True
        self._trouble.pop("broker", None)
        return True

    def _listen(self, seconds: float) -> None:
        try:
            results = self._transport.listen(seconds)
            if self._clock() >= self._next_look:
                results += self._transport.look(self._sender.unanswered)
                self._next_look = self._clock() + _POLL
            for name, raw in results:
                self._receive(name, raw)
            self._trouble.pop("store", None)
        except BrokerUnreachable as error:
            self._trouble["store"] = error
            self._sleep(min(seconds, _POLL))

    def _receive(self, name: str, raw: bytes | str) -> None:
        if name not in self._sent:
            return  # answered before, or given up
        errand, letter = self._sent[name]
        answer = self._opened(errand, name, raw)
        if answer == "working":
            return
        if answer == "failed" or not letter.is_answered_by(answer):
            errand.failures += 1  # as good as silence: it is sent again when due
            self._transport.clear(name)
            return
        self._settle([name])
        errand.answer(letter, answer)

    def _opened(self, errand: Errand, name: str, raw: bytes | str) -> Answer:
        try:
            return self._envelopes.opened(raw)
        except SealedToAnother:  # to ask again would change nothing
            self._transport.clear(name)
            self.drop(errand)
            raise

    def _settle(self, names: Iterable[str]) -> None:
        for name in names:
            del self._sent[name]
            self._sender.settled(name)
        try:
            self._transport.forget(list(names))
        except BrokerUnreachable as error:
            self._trouble["store"] = error
