"""Delivers requests: sends, listens, and sends again. In the caller's own thread, or in a loop."""

import asyncio
import logging
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import TIMEOUT_MAX, RLock
from typing import Any

from valetkey.blocking import run
from valetkey.crypto.codec import Codec
from valetkey.delivery.async_transport import AsyncTransport
from valetkey.delivery.engine import (
    POLL_INTERVAL,
    ClearResult,
    CompleteTask,
    DeliveryEngine,
    Fail,
    LogOutage,
    ResultAction,
)
from valetkey.delivery.in_flight import Send
from valetkey.delivery.pending_request import (
    DEFAULT_TIMEOUT,
    HEAD_START_SECONDS,
    PendingRequest,
    no_answer_error,
)
from valetkey.delivery.progress import BatchProgress
from valetkey.delivery.retransmit import DEFAULT_WINDOW, RetransmitTimer
from valetkey.delivery.tracing import publish_span
from valetkey.delivery.transport import Transport
from valetkey.errors import BrokerUnreachable, Busy, NoAnswer, ValetkeyError
from valetkey.wire.pending import PendingMessage

Condition = Callable[[], bool]

log = logging.getLogger("valetkey")
_UNGUARDED = nullcontext()
_CLOSE_SECONDS = 1.0  # for a thread that reads the last reply
_SENDS_PER_LISTEN = 4  # new messages until results are read: more than one, so the window fills


class BaseDispatcher(ABC):
    """Delivers several requests over one transport.

    The DeliveryEngine decides; this class does the I/O. Its coroutines suspend only where those of
    the transport do.
    """

    def __init__(
        self,
        transport: Transport | AsyncTransport,
        codec: Codec,
        timer: RetransmitTimer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._codec = codec
        self._engine = DeliveryEngine(timer, codec.decode, first_lookup=clock() + POLL_INTERVAL)
        self._clock = clock
        self._flush_count = 0
        self._is_sending = self._is_closed = False
        self._to_unsubscribe: list[str] = []
        self._to_withdraw: list[str] = []

    def add(self, request: PendingRequest) -> None:
        """Add a request, or resume one that was given up.

        Raises RuntimeError once closed, unless the request is complete.
        """
        if self._is_closed and (request.unanswered or not request.is_fully_sent):
            raise RuntimeError("the client is closed: create a new one")
        self._engine.add(request)

    def start(self, batch: BatchProgress) -> None:
        """Add a new batch."""
        self.add(batch)

    async def wait(
        self, request: PendingRequest, is_done: Condition, timeout: float | None
    ) -> None:
        """Wait until is_done(), at most `timeout` seconds, and send what has room.

        Raises what the request fails with. After the timeout it gives up the request, and raises
        NoAnswer, or BrokerUnreachable if that is the cause. It also does so if it is cancelled.
        """
        with self.exclusive():
            if not is_done():
                self.add(request)
            try:
                if await self._wait_until(request, is_done, timeout):
                    return
                error = await self._timeout_error(request, timeout or 0)
            except asyncio.CancelledError:
                self._give_up(request)
                raise
            if not is_done():
                self._give_up(request)
                await self._withdraw()
                raise error

    def exclusive(self) -> AbstractContextManager[object]:
        """Return a context in which no other thread uses the dispatcher."""
        return _UNGUARDED

    async def flush(self, timeout: float | None) -> None:
        """Wait until every request is complete or given up, even if nobody reads its results."""
        self._flush_count += 1
        try:
            if not await self._wait_until(None, lambda: self._engine.is_idle, timeout):
                text = f"not every request was answered within {timeout or 0:.3g} s"
                raise self._engine.outage or NoAnswer(text)
        finally:
            self._flush_count -= 1

    async def pause(self, seconds: float) -> None:
        """Wait for some seconds."""
        await self._transport.sleep(seconds)

    @abstractmethod
    async def close(self) -> None:
        """Close the transport and give up all requests."""

    @abstractmethod
    async def _wait_until(
        self, request: PendingRequest | None, is_done: Condition, timeout: float | None
    ) -> bool:
        """Wait for a request, or with None for all, until is_done(); false after the timeout."""

    @abstractmethod
    def _fail(self, failures: Sequence[Fail]) -> None:
        """Give up requests, and raise their errors to those who wait for them."""

    @abstractmethod
    def _wake(self, request: PendingRequest) -> None:
        """Wake those who wait for a request."""

    def _drop(self, request: PendingRequest) -> None:
        """Send none of a request's messages any more, and listen for none."""
        self._to_withdraw += self._engine.drop(request)

    def _give_up(self, request: PendingRequest) -> None:
        """Drop a request that one who waited for it has given up."""
        self._drop(request)

    async def _timeout_error(self, request: PendingRequest, seconds: float) -> ValetkeyError:
        """Return the error for a request without a reply, with the likely cause."""
        if self._engine.outage is not None:
            return self._engine.outage
        is_served = self._engine.answered_at > self._clock() - seconds
        task_id = self._engine.carrier_of(request)
        is_waiting = None if task_id is None else await self._transport.is_waiting(task_id)
        return no_answer_error(request, seconds, is_waiting=is_waiting, is_served=is_served)

    async def _send_new(self) -> bool:
        """Send what waits to be sent; return false if there is nothing."""
        # A message that is left unsent by an error of an iterable is sent by the next call.
        for request in self._engine.read_new(self._read, self._clock()):
            self._wake(request)
        is_sent = False
        while (send := self._engine.next_new()) is not None:
            await self._send(send)
            is_sent = True
        return is_sent

    def _read(self, request: PendingRequest) -> PendingMessage | None:
        limit = float("inf") if self._flush_count else DEFAULT_WINDOW
        try:
            return request.next_message(self._engine.unread_limit(request, limit, self._clock()))
        except Exception as error:  # noqa: BLE001 - the caller's own iterable failed
            self._fail([Fail(request, error)])
            return None
        except BaseException:
            self._drop(request)
            raise

    async def _resend(self) -> None:
        for send in self._engine.resends(self._clock()):
            if not await self._send(send):
                return

    async def _send(self, send: Send) -> bool:
        message = send.message
        error: BrokerUnreachable | Busy | None = None
        failures: list[Fail] = []
        is_sent, self._is_sending = False, True
        try:
            origins = [each.trace_origin for each in self._engine.requests_of(message.task_id)]
            with publish_span(message.queue, message.task_id, message.body, origins) as traces:
                argument = self._codec.encode(message.body)
                headers = {**traces, **message.expiry_header}
                await self._transport.send(message.task_id, argument, message.queue, headers)
            is_sent = True
        except (BrokerUnreachable, Busy) as cause:
            error = cause
        finally:  # reported even if it is interrupted, or the message would never be sent again
            self._is_sending = False
            if is_sent:
                self._engine.message_sent(message.task_id, self._clock())
                if not self._engine.requests_of(message.task_id):  # given up meanwhile
                    self._to_withdraw.append(message.task_id)
            else:
                failures = self._engine.send_failed(send, error, self._clock())
        self._fail(failures)
        return is_sent

    async def _listen(self, seconds: float | None) -> None:
        try:
            results = await self._transport.listen(seconds)
            if (task_ids := self._engine.tasks_to_look_up(self._clock())) is not None:
                results += await self._transport.look_up(task_ids)
                self._engine.lookup_done(self._clock())
            for task_id, raw in results:
                action = self._engine.result_received(task_id, raw, self._clock())
                if action is not None:
                    await self._perform(action)
            self._engine.store_reached()
        except BrokerUnreachable as error:
            self._fail(self._engine.store_failed(error))
            await self._transport.sleep(
                POLL_INTERVAL if seconds is None else min(seconds, POLL_INTERVAL)
            )

    async def _perform(self, action: ResultAction) -> None:
        match action:
            case CompleteTask(requests, task_ids):
                self._to_unsubscribe += task_ids
                for request in requests:
                    self._wake(request)
            case ClearResult(task_id):
                await self._transport.clear(task_id)
            case LogOutage(outage):
                log.warning("waiting: %s", outage.hint.subject)
            case Fail(_, _, clear_task_id):
                if clear_task_id is not None:
                    await self._transport.clear(clear_task_id)
                self._fail([action])

    async def _withdraw(self) -> None:
        """Take what was given up, and not resumed, from the queue; after an outage if there is one.

        What is under way when the client is closed stays there.
        """
        is_unreachable = isinstance(self._engine.outage, BrokerUnreachable)
        if not self._to_withdraw or is_unreachable or self._is_closed:
            return
        unanswered = set(self._engine.unanswered)
        task_ids = [task_id for task_id in self._to_withdraw if task_id not in unanswered]
        self._to_withdraw = []
        await self._transport.withdraw(task_ids)
        self._to_unsubscribe += task_ids

    async def _unsubscribe(self) -> None:
        await self._withdraw()
        task_ids, self._to_unsubscribe = self._to_unsubscribe, []
        try:
            await self._transport.unsubscribe(task_ids)
        except BrokerUnreachable as error:
            self._engine.store_failed(error)


class Dispatcher(BaseDispatcher):
    """Delivers requests in the caller's own thread, and only while one of its methods runs.

    Its coroutines block, and never suspend: run them with blocking.run. One thread at a time can
    use it, of the process that created it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = RLock()  # again in one thread: items may be results of the same client
        self._process_id = os.getpid()
        self._flushes = 0

    @contextmanager
    def exclusive(self, wait: float = 0) -> Iterator[None]:
        """Refuse to be used by another thread, after some seconds, or by a forked process.

        Waits for as long as the dispatcher is flushed. Raises RuntimeError.
        """
        if os.getpid() != self._process_id:
            raise RuntimeError(
                "this handle belongs to the process that was forked: pass its id to client.batch()"
            )
        if not self._lock.acquire(timeout=-1 if self._flushes else wait):
            raise RuntimeError(
                "another thread is waiting for this handle, or for one that its thread has "
                "requested: let each thread wait for the handles that it has requested itself"
            )
        try:
            yield
        finally:
            self._lock.release()

    @property
    def is_idle(self) -> bool:
        """True if no request waits for a reply."""
        return self._engine.is_idle

    def start(self, batch: BatchProgress) -> None:
        """Send chunks until the window is full or the first result arrives.

        Raises NoAnswer, or BrokerUnreachable if that is the cause, if no chunk can be sent.
        """
        with self.exclusive():
            self._start(batch)

    def _start(self, batch: BatchProgress) -> None:
        self.add(batch)
        if not run(self._wait_until(batch, lambda: batch.has_started, DEFAULT_TIMEOUT)):
            self._drop(batch)
            raise self._engine.outage or NoAnswer(
                f"no chunk could be sent within {DEFAULT_TIMEOUT:g} s: too many messages are "
                "unanswered"
            )
        run(
            self._wait_until(
                batch, lambda: batch.has_chunk() or batch.is_fully_sent, HEAD_START_SECONDS
            )
        )

    async def pause(self, seconds: float) -> None:
        """Send and listen for some seconds."""
        with self.exclusive():
            await self._wait_until(None, lambda: False, seconds)

    async def flush(self, timeout: float | None) -> None:
        """Wait as BaseDispatcher.flush does, and before that for a thread that waits itself."""
        start = self._clock()
        self._flushes += 1
        try:
            if not self._lock.acquire(timeout=-1 if timeout is None else min(timeout, TIMEOUT_MAX)):
                raise NoAnswer(f"another thread still waited after {timeout or 0:.3g} s")
            try:
                left = None if timeout is None else max(timeout - (self._clock() - start), 0)
                await super().flush(left)
            finally:
                self._lock.release()
        finally:
            self._flushes -= 1

    async def close(self) -> None:
        """Close the transport and give up all requests."""
        with self.exclusive(_CLOSE_SECONDS):
            self._is_closed = True
            for request in self._engine.requests:
                self._engine.drop(request)
            await self._transport.close()

    async def _wait_until(
        self,
        request: PendingRequest | None,  # noqa: ARG002 - all requests are delivered
        is_done: Condition,
        timeout: float | None,
    ) -> bool:
        """Send and listen until is_done(), or for `timeout` seconds; return is_done().

        Raises what fails for any request: SealedForAnotherKey, UnreadableReply, BrokerUnreachable
        if the broker was never reached, and errors of the items' iterable.
        """
        end = float("inf") if timeout is None else self._clock() + timeout
        while True:
            await self._fill_window(is_done)
            if not timeout or self._clock() < end:  # a silent server may have used all the time
                await self._resend()
            if is_done():
                return True
            now = self._clock()
            if now >= end:
                return False
            # Bounded, as the engine returns infinity while no message waits for a reply.
            until = min(end, now + POLL_INTERVAL, self._engine.listen_until(now))
            await self._listen(max(until - now, 0))
            await self._unsubscribe()

    async def _fill_window(self, is_done: Condition) -> None:
        """Send new messages while there is room, and read results in between."""
        send_count = 0
        while await self._send_new():
            send_count += 1
            if send_count % _SENDS_PER_LISTEN == 0:
                await self._listen(0)
                if is_done():
                    return

    def _wake(self, request: PendingRequest) -> None:
        """Do nothing: only the caller waits."""

    def _fail(self, failures: Sequence[Fail]) -> None:
        for failure in failures:
            self._drop(failure.request)
        if failures:
            raise failures[0].error
