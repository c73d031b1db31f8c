"""The reliable sender at work: sends, listens, and sends again what stays silent."""

import time
from collections.abc import Callable, Iterable
from typing import Protocol

from valetkey.batches import Chunk
from valetkey.errors import BrokerUnreachable
from valetkey.messages import Outcome, task_id
from valetkey.refusals import Refusal
from valetkey.sender import WINDOW, Sender
from valetkey.transport import Transport, read_result

_POLL = 0.25  # seconds between looks into the store, whatever was announced


class Batch(Protocol):
    """What a courier carries: chunks to send, and what becomes of each."""

    id: str
    refusal: Refusal | None
    failures: int
    unanswered: dict[int, Chunk]

    @property
    def all_sent(self) -> bool:
        """Whether next_chunk has nothing more to give."""

    def next_chunk(self, ahead: float) -> Chunk | None:
        """The next chunk to send, unless `ahead` of them wait for their reader."""

    def answer(self, chunk: Chunk, outcome: Outcome) -> None:
        """Take the answer to a chunk."""


class Courier:
    """Carries the chunks of many batches over one transport, a window of them at a time."""

    def __init__(
        self,
        transport: Transport,
        sender: Sender,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._transport = transport
        self._sender = sender
        self._clock = clock
        self._sleep = sleep
        self._unsent: list[Batch] = []
        self._sent: dict[str, tuple[Batch, Chunk]] = {}
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

    def take(self, batch: Batch) -> None:
        """Take on a batch, or once more what is left of one that was given up."""
        self._trouble.clear()  # whoever asks anew tries anew
        if batch not in self._unsent:
            self._unsent.append(batch)
        for chunk in batch.unanswered.values():
            if task_id(batch.id, chunk.number) not in self._sent:
                self._send(batch, chunk)

    def drop(self, batch: Batch) -> None:
        """Give a batch up: nothing of it is sent or listened for any more."""
        self._unsent = [other for other in self._unsent if other is not batch]
        self._settle([name for name, (other, _) in self._sent.items() if other is batch])

    def wait(
        self, done: Callable[[], bool], timeout: float | None = None, ahead: float = WINDOW
    ) -> bool:
        """Carry on until done() or for `timeout` seconds; return whether it is done.

        ahead bounds how many chunks of a batch may be under way or wait for their reader.
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
        for batch in list(self._unsent):
            while self._sender.has_room and not self._trouble:
                chunk = self._next_chunk(batch, ahead)
                if chunk is None:
                    break
                self._send(batch, chunk)
        self._unsent = [batch for batch in self._unsent if not batch.all_sent]

    def _next_chunk(self, batch: Batch, ahead: float) -> Chunk | None:
        try:
            return batch.next_chunk(ahead)
        except BaseException:  # the caller's own iterable failed: the batch cannot be completed
            self.drop(batch)
            raise

    def _send(self, batch: Batch, chunk: Chunk) -> None:
        refusal = chunk.refusal or batch.refusal
        if refusal is not None:
            batch.answer(chunk, refused(batch.id, chunk.number, refusal))
            return
        name = task_id(batch.id, chunk.number)
        self._sent[name] = (batch, chunk)
        self._publish(name)

    def _resend(self) -> None:
        for name in self._sender.due(self._clock()):
            if not self._publish(name):
                return  # each try may take seconds: the others wait for the next round

    def _publish(self, name: str) -> bool:
        self._sender.sent(name, self._clock())
        batch, chunk = self._sent[name]
        try:
            self._transport.send(name, chunk.message)
        except BrokerUnreachable as error:
            if not self._reached:  # rather a wrong URL than a passing outage
                self.drop(batch)
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
        batch, chunk = self._sent[name]
        answer = read_result(raw)
        if answer == "working":
            return
        if answer == "failed" or not chunk.is_answered_by(answer):
            batch.failures += 1  # as good as silence: it is sent again when due
            self._transport.clear(name)
            return
        self._settle([name])
        batch.answer(chunk, answer)

    def _settle(self, names: Iterable[str]) -> None:
        for name in names:
            del self._sent[name]
            self._sender.settled(name)
        try:
            self._transport.forget(list(names))
        except BrokerUnreachable as error:
            self._trouble["store"] = error


def refused(batch: str, chunk: int, refusal: Refusal) -> Outcome:
    """The outcome of a chunk that need not be sent to be refused."""
    return Outcome(batch=batch, chunk=chunk, status="refused", refusal=refusal)
