"""Coroutines that wait for requests, and errors that none of them has received yet."""

import asyncio
from collections.abc import Callable

from valetkey.delivery.pending_request import PendingRequest

Condition = Callable[[], bool]


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
