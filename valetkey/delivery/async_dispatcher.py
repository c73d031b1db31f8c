"""The reliable sender at work in an event loop: one task, however many wait."""

import asyncio
from collections.abc import Callable
from time import monotonic

from valetkey.crypto.codec import Codec
from valetkey.delivery.async_transport import AsyncTransport
from valetkey.delivery.dispatcher import POLL_INTERVAL
from valetkey.delivery.in_flight import InFlight, PendingRequest, no_answer
from valetkey.delivery.retransmit import DEFAULT_WINDOW, RetransmitTimer
from valetkey.delivery.waiters import Waiters
from valetkey.errors import BrokerUnreachable, NoAnswer, SealedForAnotherKey, ValetkeyError
from valetkey.wire.pending import PendingMessage


class AsyncDispatcher:
    """Runs many errands over one transport, a window of letters at a time.

    Its task runs while something is unanswered, whether or not anybody waits for it.
    """

    def __init__(
        self, transport: AsyncTransport, codec: Codec, sender: RetransmitTimer
    ) -> None:
        self._transport = transport
        self._codec = codec
        self._rounds = InFlight(sender)
        self._waiting = Waiters()
        self._flushing = 0
        self._next_look = 0.0
        self._reached = False
        self._trouble: dict[str, BrokerUnreachable] = {}
        self._left: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def take(self, errand: PendingRequest) -> None:
        """Take on an errand, or once more what is left of one that was given up.

        Raises RuntimeError outside of an event loop, in another one than before, or once closed.
        """
        if self._is_closed:
            raise RuntimeError("the client is closed")
        loop = asyncio.get_running_loop()
        if self._task is not None and self._task.get_loop() is not loop:
            raise RuntimeError("the client belongs to the event loop that it was first used in")
        self._trouble.clear()  # whoever asks anew tries anew
        self._rounds.take(errand)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._carry(), name="valetkey")
        self._transport.stir()

    def stir(self) -> None:
        """Look whether there is more to send: an answer was read, or an item is there."""
        self._transport.stir()

    async def wait(
        self, errand: PendingRequest, done: Callable[[], bool], timeout: float | None
    ) -> None:
        """Wait until done(), at most `timeout` seconds.

        Raises what failed; NoAnswer, or why no server can be reached, after the timeout. The errand
        is then given up, unless somebody else waits for it.
        """
        if done():
            return
        self.take(errand)
        if not await self._waiting.until(errand, done, timeout):
            if not self._waiting.are_for(errand):
                self._drop(errand)
            raise self._trouble_or(no_answer(errand, timeout or 0))

    async def flush(self, timeout: float | None) -> None:
        """Wait until all is answered or given up, whether or not its reader comes."""
        self._flushing += 1
        self._transport.stir()
        try:
            if not await self._waiting.until(None, lambda: self._rounds.idle, timeout):
                text = f"not all was answered within {timeout or 0:g} s"
                raise self._trouble_or(NoAnswer(text))
        finally:
            self._flushing -= 1

    async def close(self) -> None:
        """Close the transport; what is unanswered is given up."""
        if self._is_closed:
            return
        self._is_closed = True
        while self._task is not None and not self._task.done():
            self._task.cancel()  # again: below redis-py, wait_for of Python 3.11 may swallow it
            await asyncio.wait([self._task], timeout=POLL_INTERVAL)
        for errand in self._rounds.errands:
            self._fail(errand, NoAnswer("the client was closed before there was an answer"))
        await self._transport.close()

    async def _carry(self) -> None:
        try:
            while not (self._is_closed or self._rounds.idle):
                is_sent = await self._send_next()
                await self._resend()
                await self._listen(0 if is_sent else self._pause())
                await self._leave()
        except Exception as bug:  # noqa: BLE001 - nobody awaits this task: they await its errands
            for errand in self._rounds.errands:
                self._fail(errand, bug)
        self._waiting.tell(None)

    def _pause(self) -> float | None:
        now = monotonic()
        next_look = self._next_look if self._rounds.unanswered else float("inf")
        then = min(next_look, self._rounds.next_time(now))
        return None if then == float("inf") else max(then - now, 0)

    async def _send_next(self) -> bool:
        for again in self._rounds.given_up(monotonic):
            await self._publish(again)
        if "store" in self._trouble:
            return False
        for errand in self._rounds.turns():
            while (letter := self._next_letter(errand)) is not None:
                if self._rounds.enters(errand, letter, monotonic()):
                    await self._publish(letter)
                    return True
                self._waiting.tell(errand)
        return False

    def _next_letter(self, errand: PendingRequest) -> PendingMessage | None:
        try:
            most = float("inf") if self._flushing else DEFAULT_WINDOW
            return errand.next_letter(self._rounds.ahead(errand, most, monotonic()))
        except Exception as error:  # noqa: BLE001 - the caller's own iterable failed
            self._fail(errand, error)
            return None

    async def _resend(self) -> None:
        for letter in self._rounds.due(monotonic()):
            if not await self._publish(letter):
                return  # each try may take seconds: the others wait for the next round

    async def _publish(self, letter: PendingMessage) -> bool:
        errand = self._rounds.errand_of(letter.name)
        if errand is None:
            return True  # given up meanwhile
        is_sent = False
        try:
            argument = self._codec.encode(letter.message)
            await self._transport.send(letter.name, argument, letter.queue)
            is_sent = True
        except BrokerUnreachable as error:
            if self._reached:
                self._trouble["broker"] = error
            else:  # rather a wrong URL than a passing outage
                self._fail(errand, error)
        else:
            self._reached = True
            self._trouble.pop("broker", None)
        finally:  # whatever ended it, and after the seconds that it may have taken
            self._rounds.sent(letter.name, monotonic(), is_stuck=not is_sent)
        return is_sent

    async def _listen(self, seconds: float | None) -> None:
        try:
            results = await self._transport.listen(seconds)
            if monotonic() >= self._next_look:
                results += await self._transport.look(self._rounds.unanswered)
                self._next_look = monotonic() + POLL_INTERVAL
            for name, raw in results:
                await self._receive(name, raw)
            self._trouble.pop("store", None)
        except BrokerUnreachable as error:
            self._trouble["store"] = error
            await asyncio.sleep(POLL_INTERVAL if seconds is None else min(seconds, POLL_INTERVAL))

    async def _receive(self, name: str, raw: bytes | str) -> None:
        errand = self._rounds.errand_of(name)
        if errand is None:
            return  # answered before, or given up
        try:
            answer = self._codec.decode(raw)
        except SealedForAnotherKey as error:  # to ask again would change nothing
            self._fail(errand, error)
            await self._transport.clear(name)
            return
        match self._rounds.receive(name, answer, monotonic()):
            case "useless":
                await self._transport.clear(name)
            case "settled":
                self._left.append(name)
                self._waiting.tell(errand)

    async def _leave(self) -> None:
        names, self._left = self._left, []
        try:
            await self._transport.forget(names)
        except BrokerUnreachable as error:
            self._trouble["store"] = error

    def _drop(self, errand: PendingRequest) -> None:
        self._left += self._rounds.drop(errand)
        self._transport.stir()

    def _fail(self, errand: PendingRequest, error: Exception) -> None:
        self._drop(errand)
        self._waiting.fail(errand, error)

    def _trouble_or(self, error: NoAnswer) -> ValetkeyError:
        return next(iter(self._trouble.values()), error)
