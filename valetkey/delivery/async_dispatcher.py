"""Delivers requests in an event loop: one task, however many coroutines wait."""

import asyncio
from collections.abc import Sequence

from valetkey.crypto.codec import Codec
from valetkey.delivery.async_transport import AsyncTransport
from valetkey.delivery.dispatcher import BaseDispatcher, Condition
from valetkey.delivery.engine import POLL_INTERVAL, Fail
from valetkey.delivery.pending_request import PendingRequest
from valetkey.delivery.retransmit import RetransmitTimer
from valetkey.errors import NoAnswer, ValetkeyError


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


class AsyncDispatcher(BaseDispatcher):
    """Delivers requests by a task that runs while one is incomplete, even if no coroutine waits."""

    _transport: AsyncTransport

    def __init__(self, transport: AsyncTransport, codec: Codec, timer: RetransmitTimer) -> None:
        super().__init__(transport, codec, timer)
        self._waiters = Waiters()
        self._task: asyncio.Task[None] | None = None

    def add(self, request: PendingRequest) -> None:
        """Add a request, as BaseDispatcher.add does.

        Raises RuntimeError outside of an event loop, and in another one than before, too.
        """
        loop = asyncio.get_running_loop()
        if self._task is not None and self._task.get_loop() is not loop:
            raise RuntimeError(
                "the client belongs to the event loop that it was first used in: "
                "create one client for each loop"
            )
        super().add(request)
        if self._task is None or self._task.done():
            self._task = loop.create_task(self._run(), name="valetkey")
        self.wake()

    def wake(self) -> None:
        """Check for new messages to send: a reply was read, or an item has arrived."""
        self._transport.wake()

    async def close(self) -> None:
        """Close the transport and give up all requests."""
        if self._is_closed:
            return
        self._is_closed = True
        while self._task is not None and not self._task.done():
            self._task.cancel()  # repeatedly: wait_for of Python 3.11, in redis-py, may swallow it
            await asyncio.wait([self._task], timeout=POLL_INTERVAL)
        error = NoAnswer("the client was closed before there was an answer")
        self._fail([Fail(request, error) for request in self._engine.requests])
        await self._transport.close()

    async def _run(self) -> None:
        try:
            while not (self._is_closed or self._engine.is_idle):
                is_sent = await self._send_new()
                await self._resend()
                await self._listen(0 if is_sent else self._listen_seconds())
                await self._unsubscribe()
        except Exception as error:  # noqa: BLE001 - nobody awaits this task, only its requests
            self._fail([Fail(request, error) for request in self._engine.requests])
        self._waiters.wake(None)

    def _listen_seconds(self) -> float | None:
        now = self._clock()
        until = self._engine.listen_until(now)
        return None if until == float("inf") else max(until - now, 0)

    async def _wait_until(
        self, request: PendingRequest | None, is_done: Condition, timeout: float | None
    ) -> bool:
        self.wake()
        if request is not None and is_done():
            await asyncio.sleep(0)  # lets other tasks run, as for each chunk that is read
            return True
        return await self._waiters.wait_until(request, is_done, timeout)

    async def _timeout_error(self, request: PendingRequest, seconds: float) -> ValetkeyError:
        is_silent = self._is_sending and not self._engine.has_reached_broker
        if self._engine.outage is None and is_silent:
            return self._transport.silence()
        return await super()._timeout_error(request, seconds)

    def _wake(self, request: PendingRequest) -> None:
        self._waiters.wake(request)

    def _drop(self, request: PendingRequest) -> None:
        super()._drop(request)
        self.wake()

    def _give_up(self, request: PendingRequest) -> None:
        if not self._waiters.has_waiters(request):
            self._drop(request)

    def _fail(self, failures: Sequence[Fail]) -> None:
        for failure in failures:
            self._drop(failure.request)
            self._waiters.fail(failure.request, failure.error)
