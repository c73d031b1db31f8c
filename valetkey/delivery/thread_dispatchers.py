"""Gives each thread of a blocking client a dispatcher, with connections of its own."""

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from valetkey.blocking import run
from valetkey.delivery.dispatcher import Dispatcher

_MOMENT = 0.01  # seconds


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
        """Close all dispatchers. Raises RuntimeError if another thread waits: close again later."""
        self._is_closed = True
        errors = []
        for dispatcher in list(self._of_this_process().values()):
            try:
                run(dispatcher.close())
            except RuntimeError as error:
                errors.append(error)
        if errors:
            raise errors[0]

    def _of_this_process(self) -> dict[threading.Thread, Dispatcher]:
        if self._process_id != os.getpid():
            self._by_thread, self._process_id = {}, os.getpid()
        return self._by_thread

    def _close_unused(self) -> None:
        """Close the dispatchers of threads that have ended, if they wait for no reply.

        One of those that do receives what has arrived: its own thread never will.
        """
        copied = self._by_thread.copy()
        ended = {thread: each for thread, each in copied.items() if not thread.is_alive()}
        waiting = [dispatcher for dispatcher in ended.values() if not dispatcher.is_idle]
        if waiting:
            with suppress(Exception):  # of a request that nobody waits for
                run(random.choice(waiting).flush(_MOMENT))  # noqa: S311 - no secret
        for thread, dispatcher in ended.items():
            if dispatcher.is_idle and self._by_thread.pop(thread, None) is not None:
                run(dispatcher.close())
