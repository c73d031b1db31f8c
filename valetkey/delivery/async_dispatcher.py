"""Delivers requests in an event loop: one task, however many coroutines wait."""

import asyncio
import logging
from collections.abc import Callable
from time import monotonic

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
from valetkey.delivery.pending_request import PendingRequest, no_answer_error, queue_to_ask
from valetkey.delivery.retransmit import DEFAULT_WINDOW, RetransmitTimer
from valetkey.errors import BrokerUnreachable, NoAnswer, ValetkeyError
from valetkey.wire.pending import PendingMessage

Condition = Callable[[], bool]

log = logging.getLogger("valetkey")


class Waiters:
    """The coroutines that wait for one request, or for all requests (key None)."""

    def __init__(self) -> None:
        self._waiters: dict[PendingRequest | None, dict[asyncio.Future[None], Condition]] = {}
        self._pending_errors: dict[PendingRequest | None, Exception] = {}

    async def wait_until(
        self, request: PendingRequest | None, is_done: Condition, timeout: float | None
    ) -> bool:
        """Wait until is_done(), at most `timeout` seconds; return false after the timeout.

        After it returns true, another coroutine may have been faster and changed the condition.
        Raises the error that the request, or with None any request, failed with.
        """
        self._raise_pending_error(request)
        if is_done():
            return True
        waiter = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(request, {})
        waiters[waiter] = is_done
        try:
            async with asyncio.timeout(timeout) as time_limit:
                await waiter
        except TimeoutError:
            if not time_limit.expired():  # the caller's own iterable raised it
                raise
            return is_done()
        finally:
            del waiters[waiter]
            if not waiters:
                del self._waiters[request]
            if waiter.done() and not waiter.cancelled():
                waiter.exception()  # marks it as retrieved, even if this coroutine is cancelled now
        return True

    def has_waiters(self, request: PendingRequest) -> bool:
        """Return true if a coroutine waits for the request."""
        return request in self._waiters

    def wake(self, request: PendingRequest | None) -> None:
        """Wake the coroutines that wait for a request, or for all, if their condition holds."""
        for waiter, is_done in self._waiters.get(request, {}).items():
            if not waiter.done() and is_done():
                waiter.set_result(None)

    def fail(self, request: PendingRequest, error: Exception) -> None:
        """Raise an error in the coroutines that wait for a request, or for all.

        If there are none, the next one raises it; otherwise a request that nobody awaits would
        fail silently.
        """
        waiters = [*self._waiters.get(request, {}), *self._waiters.get(None, {})]
        open_waiters = [waiter for waiter in waiters if not waiter.done()]
        for waiter in open_waiters:
            waiter.set_exception(error)
        if not open_waiters:
            self._pending_errors[request] = error

    def _raise_pending_error(self, request: PendingRequest | None) -> None:
        if request in self._pending_errors:
            raise self._pending_errors.pop(request)
        if request is None and self._pending_errors:
            errors = list(self._pending_errors.values())
            self._pending_errors.clear()
            raise errors[0]


class AsyncDispatcher:
    """Delivers several requests over one transport.

    Its task runs while a request is incomplete, even if no coroutine waits for it. The
    DeliveryEngine decides; this class does the I/O.
    """

    def __init__(self, transport: AsyncTransport, codec: Codec, timer: RetransmitTimer) -> None:
        self._transport = transport
        self._codec = codec
        self._engine = DeliveryEngine(timer, codec.decode)
        self._waiters = Waiters()
        self._flush_count = 0
        self._is_sending = False
        self._to_unsubscribe: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._is_closed = False

    def add(self, request: PendingRequest) -> None:
        """Add a request, or resume one that was given up.

        Raises RuntimeError outside of an event loop, in another one than before, or once closed.
        """
        if self._is_closed:
            raise RuntimeError("the client is closed: create a new one")
        loop = asyncio.get_running_loop()
        if self._task is not None and self._task.get_loop() is not loop:
            raise RuntimeError(
                "the client belongs to the event loop that it was first used in: "
                "create one client for each loop"
            )
        self._engine.add(request)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="valetkey")
        self._transport.wake()

    def wake(self) -> None:
        """Check for new messages to send: a reply was read, or an item has arrived."""
        self._transport.wake()

    async def wait(
        self, request: PendingRequest, is_done: Callable[[], bool], timeout: float | None
    ) -> None:
        """Wait until is_done(), at most `timeout` seconds.

        Raises the error that the request failed with. After the timeout it raises NoAnswer, or
        BrokerUnreachable if that is the cause, and gives up the request unless another coroutine
        waits for it.
        """
        if is_done():
            return
        self.add(request)
        if not await self._waiters.wait_until(request, is_done, timeout):
            if not self._waiters.has_waiters(request):
                self._drop(request)
            raise await self._timeout_error(request, timeout or 0)

    async def _timeout_error(self, request: PendingRequest, seconds: float) -> ValetkeyError:
        if self._engine.outage is not None:
            return self._engine.outage
        if self._is_sending and not self._engine.has_reached_broker:
            return self._transport.silence()
        queue = queue_to_ask(request)
        length = None if queue is None else await self._transport.queue_length(queue)
        return no_answer_error(request, seconds, length)

    async def flush(self, timeout: float | None) -> None:
        """Wait until every request is complete or given up, even if no coroutine reads it."""
        self._flush_count += 1
        self._transport.wake()
        try:
            if not await self._waiters.wait_until(None, lambda: self._engine.is_idle, timeout):
                text = f"not every request was answered within {timeout or 0:g} s"
                raise self._engine.outage or NoAnswer(text)
        finally:
            self._flush_count -= 1

    async def close(self) -> None:
        """Close the transport and give up all requests."""
        if self._is_closed:
            return
        self._is_closed = True
        while self._task is not None and not self._task.done():
            self._task.cancel()  # repeatedly: wait_for of Python 3.11, in redis-py, may swallow it
            await asyncio.wait([self._task], timeout=POLL_INTERVAL)
        for request in self._engine.requests:
            self._fail(request, NoAnswer("the client was closed before there was an answer"))
        await self._transport.close()

    async def _run(self) -> None:
        try:
            while not (self._is_closed or self._engine.is_idle):
                is_sent = await self._send_new()
                await self._resend()
                await self._listen(0 if is_sent else self._listen_seconds())
                await self._unsubscribe()
        except Exception as error:  # noqa: BLE001 - nobody awaits this task, only its requests
            for request in self._engine.requests:
                self._fail(request, error)
        self._waiters.wake(None)

    async def _send_new(self) -> bool:
        """Send resumed messages and what waits to be sent; return false if there is nothing new."""
        while (send := self._engine.next_resumed(monotonic())) is not None:
            await self._send(send)
        for request in self._engine.read_new(self._read, monotonic()):
            self._waiters.wake(request)
        is_sent = False
        while (send := self._engine.next_new()) is not None:
            await self._send(send)
            is_sent = True
        return is_sent

    def _read(self, request: PendingRequest) -> PendingMessage | None:
        limit = float("inf") if self._flush_count else DEFAULT_WINDOW
        try:
            return request.next_message(self._engine.unread_limit(request, limit, monotonic()))
        except Exception as error:  # noqa: BLE001 - the caller's own iterable failed
            self._fail(request, error)
            return None

    async def _resend(self) -> None:
        for send in self._engine.resends(monotonic()):
            if not await self._send(send):
                return

    async def _send(self, send: Send) -> bool:
        message = send.message
        error: BrokerUnreachable | None = None
        failures: list[Fail] = []
        is_sent, self._is_sending = False, True
        try:
            argument = self._codec.encode(message.body)
            await self._transport.send(message.task_id, argument, message.queue)
            is_sent = True
        except BrokerUnreachable as unreachable:
            error = unreachable
        finally:  # reported even if it is cancelled, or the message would never be sent again
            self._is_sending = False
            if is_sent:
                self._engine.message_sent(message.task_id, monotonic())
            else:
                failures = self._engine.send_failed(send, error, monotonic())
        for failure in failures:
            self._fail(failure.request, failure.error)
        return is_sent

    def _listen_seconds(self) -> float | None:
        now = monotonic()
        until = self._engine.listen_until(now)
        return None if until == float("inf") else max(until - now, 0)

    async def _listen(self, seconds: float | None) -> None:
        try:
            results = await self._transport.listen(seconds)
            if (task_ids := self._engine.tasks_to_look_up(monotonic())) is not None:
                results += await self._transport.look_up(task_ids)
                self._engine.lookup_done(monotonic())
            for task_id, raw in results:
                action = self._engine.result_received(task_id, raw, monotonic())
                if action is not None:
                    await self._perform(action)
            self._engine.store_reached()
        except BrokerUnreachable as error:
            for failure in self._engine.store_failed(error):
                self._fail(failure.request, failure.error)
            await asyncio.sleep(POLL_INTERVAL if seconds is None else min(seconds, POLL_INTERVAL))

    async def _perform(self, action: ResultAction) -> None:
        match action:
            case CompleteTask(requests, task_ids):
                self._to_unsubscribe += task_ids
                for request in requests:
                    self._waiters.wake(request)
            case ClearResult(task_id):
                await self._transport.clear(task_id)
            case LogOutage(outage):
                log.warning("waiting: %s", outage.hint.subject)
            case Fail(request, error, clear_task_id):
                self._fail(request, error)
                if clear_task_id is not None:
                    await self._transport.clear(clear_task_id)

    async def _unsubscribe(self) -> None:
        task_ids, self._to_unsubscribe = self._to_unsubscribe, []
        try:
            await self._transport.unsubscribe(task_ids)
        except BrokerUnreachable as error:
            self._engine.store_failed(error)

    def _drop(self, request: PendingRequest) -> None:
        self._to_unsubscribe += self._engine.drop(request)
        self._transport.wake()

    def _fail(self, request: PendingRequest, error: Exception) -> None:
        self._drop(request)
        self._waiters.fail(request, error)
