"""Gives each thread of a blocking client a dispatcher, with connections of its own."""

import os
import threading
import time
from collections.abc import Callable

from valetkey.blocking import run
from valetkey.delivery.dispatcher import Dispatcher


class ThreadDispatchers:
    """The dispatchers of one blocking client: one for each thread that uses it.

    Each thread adds only its own one, so no lock is needed. A forked process begins with none: two
    processes must not read from one socket.
    """

    def __init__(self, connect: Callable[[], Dispatcher]) -> None:
        self._connect = connect
        self._by_thread: dict[threading.Thread, Dispatcher] = {}
        self._process_id = os.getpid()
        self._is_closed = False

    def current(self) -> Dispatcher:
        """Return the dispatcher of this thread. Raises RuntimeError if it has none once closed."""
        thread, by_thread = threading.current_thread(), self._of_this_process()
        found = by_thread.get(thread)
        if found is None:
            if self._is_closed:
                raise RuntimeError("the client is closed: create a new one")
            self._close_unused()
            found = by_thread[thread] = self._connect()
        return found

    def flush(self, timeout: float | None) -> None:
        """Wait until all requests of all threads are answered. Raises as Dispatcher.flush does."""
        end = None if timeout is None else time.monotonic() + timeout
        for dispatcher in list(self._of_this_process().values()):
            run(dispatcher.flush(None if end is None else max(end - time.monotonic(), 0)))

    def close(self) -> None:
        """Close all dispatchers."""
        self._is_closed = True
        for dispatcher in list(self._of_this_process().values()):
            run(dispatcher.close())

    def _of_this_process(self) -> dict[threading.Thread, Dispatcher]:
        if self._process_id != os.getpid():
            self._by_thread, self._process_id = {}, os.getpid()
        return self._by_thread

    def _close_unused(self) -> None:
        """Close the dispatchers of threads that have ended, if they wait for no reply."""
        for thread, dispatcher in self._by_thread.copy().items():
            is_unused = not thread.is_alive() and dispatcher.is_idle
            if is_unused and self._by_thread.pop(thread, None) is not None:
                run(dispatcher.close())
