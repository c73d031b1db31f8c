"""The reliable sender at work: sends, listens, and sends again what stays silent."""

import time
from collections.abc import Callable, Sequence

from valetkey.crypto.codec import Codec
from valetkey.delivery.in_flight import InFlight, PendingRequest
from valetkey.delivery.retransmit import DEFAULT_WINDOW, RetransmitTimer
from valetkey.delivery.transport import Transport
from valetkey.errors import BrokerUnreachable, SealedForAnotherKey
from valetkey.wire.pending import PendingMessage

POLL_INTERVAL = 0.25  # seconds between looks into the store, whatever was announced
_UNHEARD = 4  # letters sent until answers are looked at: more than one, so that the window fills


class Dispatcher:
    """Runs many errands over one transport, a window of letters at a time."""

    def __init__(
        self,
        transport: Transport,
        codec: Codec,
        sender: RetransmitTimer,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport
        self._codec = codec
        self._rounds = InFlight(sender)
        self._clock = clock
        self._sleep = sleep
        self._next_look = clock() + POLL_INTERVAL
        self._reached = False
        self._is_closed = False
        self._trouble: dict[str, BrokerUnreachable] = {}

    @property
    def idle(self) -> bool:
        """Whether all that was taken on is answered or given up."""
        return self._rounds.idle

    @property
    def trouble(self) -> BrokerUnreachable | None:
        """Why a server cannot be reached, while it cannot."""
        return next(iter(self._trouble.values()), None)

    def take(self, errand: PendingRequest) -> None:
        """Take on an errand, or once more what is left of one that was given up.

        Raises RuntimeError once closed, unless all of it is answered.
        """
        if self._is_closed and (errand.unanswered or not errand.all_sent):
            raise RuntimeError("the client is closed")
        self._trouble.clear()  # whoever asks anew tries anew
        self._rounds.take(errand)
        for letter in self._rounds.given_up(self._clock):
            self._publish(letter)

    def drop(self, errand: PendingRequest) -> None:
        """Give an errand up: nothing of it is sent or listened for any more."""
        self._forget(self._rounds.drop(errand))

    def wait(
        self, done: Callable[[], bool], timeout: float | None = None, ahead: float = DEFAULT_WINDOW
    ) -> bool:
        """Carry on until done() or for `timeout` seconds; return whether it is done.

        ahead bounds how many letters of an errand may be under way or wait for their reader.
        Raises SealedToAnother for any of them.
        """
        end = float("inf") if timeout is None else self._clock() + timeout
        while True:
            self._fill(done, ahead)
            if not timeout or self._clock() < end:  # a silent server may have taken all of it
                self._resend()
            if done():
                return True
            now = self._clock()
            if now >= end:
                return False
            self._listen(max(min(end, self._next_look, self._rounds.next_time(now)) - now, 0))

    def close(self) -> None:
        """Close the transport; what is unanswered is given up."""
        self._is_closed = True
        for errand in self._rounds.errands:
            self._rounds.drop(errand)
        self._transport.close()

    def _fill(self, done: Callable[[], bool], ahead: float) -> None:
        """Send what there is room for, but keep no answer waiting until all of that is sent."""
        unheard = 0
        while "store" not in self._trouble and self._send_next(ahead):
            unheard += 1
            if unheard == _UNHEARD:
                unheard = 0
                self._listen(0)
                if done():
                    return

    def _send_next(self, ahead: float) -> bool:
        for errand in self._rounds.turns():
            while (letter := self._next_letter(errand, ahead)) is not None:
                if self._rounds.enters(errand, letter, self._clock()):
                    self._publish(letter)
                    return True
        return False

    def _next_letter(self, errand: PendingRequest, ahead: float) -> PendingMessage | None:
        try:
            return errand.next_letter(self._rounds.ahead(errand, ahead, self._clock()))
        except BaseException:  # the caller's own iterable failed: the batch cannot be completed
            self.drop(errand)
            raise

    def _resend(self) -> None:
        for letter in self._rounds.due(self._clock()):
            if not self._publish(letter):
                return  # each try may take seconds: the others wait for the next round

    def _publish(self, letter: PendingMessage) -> bool:
        is_sent = False
        try:
            argument = self._codec.encode(letter.message)
            self._transport.send(letter.name, argument, letter.queue)
            is_sent = True
        except BrokerUnreachable as error:
            if not self._reached:  # rather a wrong URL than a passing outage
                self._give_up(letter.name)
                raise
            self._trouble["broker"] = error
        else:
            self._reached = True
            self._trouble.pop("broker", None)
        finally:  # whatever ended it, and after the seconds that it may have taken
            self._rounds.sent(letter.name, self._clock(), is_stuck=not is_sent)
        return is_sent

    def _listen(self, seconds: float) -> None:
        try:
            results = self._transport.listen(seconds)
            if self._clock() >= self._next_look:
                results += self._transport.look(self._rounds.unanswered)
                self._next_look = self._clock() + POLL_INTERVAL
            for name, raw in results:
                self._receive(name, raw)
            self._trouble.pop("store", None)
        except BrokerUnreachable as error:
            self._trouble["store"] = error
            self._sleep(min(seconds, POLL_INTERVAL))

    def _receive(self, name: str, raw: bytes | str) -> None:
        if self._rounds.errand_of(name) is None:
            return
        try:
            answer = self._codec.decode(raw)
        except SealedForAnotherKey:  # to ask again would change nothing
            self._transport.clear(name)
            self._give_up(name)
            raise
        match self._rounds.receive(name, answer, self._clock()):
            case "useless":
                self._transport.clear(name)
            case "settled":
                self._forget([name])

    def _give_up(self, name: str) -> None:
        errand = self._rounds.errand_of(name)
        if errand is not None:
            self.drop(errand)

    def _forget(self, names: Sequence[str]) -> None:
        try:
            self._transport.forget(names)
        except BrokerUnreachable as error:
            self._trouble["store"] = error
