"""Coroutines that wait for errands, and errors that none of them has heard yet."""

import asyncio
from collections.abc import Callable

from valetkey.delivery.in_flight import PendingRequest

Done = Callable[[], bool]


class Waiters:
    """Who waits for what: for something of an errand, or, of None, for something of all."""

    def __init__(self) -> None:
        self._watches: dict[PendingRequest | None, dict[asyncio.Future[None], Done]] = {}
        self._untold: dict[PendingRequest | None, Exception] = {}

    async def until(self, errand: PendingRequest | None, done: Done, timeout: float | None) -> bool:
        """Wait until done(), at most `timeout` seconds; return whether it was.

        Somebody else may have been faster, and have it undone. Raises what the errand, or any of
        them, failed of.
        """
        self._raise_untold(errand)
        if done():
            return True
        watch = asyncio.get_running_loop().create_future()
        watches = self._watches.setdefault(errand, {})
        watches[watch] = done
        try:
            async with asyncio.timeout(timeout) as limit:
                await watch
        except TimeoutError:
            if not limit.expired():  # a caller's own iterable failed of it
                raise
            return done()
        finally:
            del watches[watch]
            if not watches:
                del self._watches[errand]
            if watch.done() and not watch.cancelled():
                watch.exception()  # heard, even by one who is cancelled in this very moment
        return True

    def are_for(self, errand: PendingRequest) -> bool:
        """Whether anybody waits for an errand."""
        return errand in self._watches

    def tell(self, errand: PendingRequest | None) -> None:
        """Wake those whose wait is over, as something came of an errand, or of all."""
        for watch, done in self._watches.get(errand, {}).items():
            if not watch.done() and done():
                watch.set_result(None)

    def fail(self, errand: PendingRequest, error: Exception) -> None:
        """Have those who wait for an errand, or for all, raise an error; or else the next of them.

        What was begun and is never awaited would fail unheard.
        """
        watches = [*self._watches.get(errand, {}), *self._watches.get(None, {})]
        open_watches = [watch for watch in watches if not watch.done()]
        for watch in open_watches:
            watch.set_exception(error)
        if not open_watches:
            self._untold[errand] = error

    def _raise_untold(self, errand: PendingRequest | None) -> None:
        if errand in self._untold:
            raise self._untold.pop(errand)
        if errand is None and self._untold:
            errors = list(self._untold.values())
            self._untold.clear()
            raise errors[0]
