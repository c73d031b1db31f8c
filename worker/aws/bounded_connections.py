"""HTTP connections to storage on which no answer takes longer than it may.

A timeout of a socket limits the time of each read. A server that sends one byte in a while, one
header after the other, or `100 Continue` again and again, would hold a worker for ever.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any

from botocore import awsrequest

MAX_ANSWER_SECONDS = 30.0
"""The time for the head of an answer, and again for its body."""

_MAX_LINES, _MAX_LINE_BYTES = 100, 65_536


class _Watchdog:
    """Cuts a connection off after MAX_ANSWER_SECONDS: reads then end as if the server did."""

    def __init__(self, connection: socket.socket | None) -> None:
        self.was_late = False
        self._connection = connection
        self._end = time.monotonic() + MAX_ANSWER_SECONDS
        _watcher.add(self)

    def stop(self) -> None:
        """Let the connection be."""
        _watcher.discard(self)

    def check(self, now: float) -> None:
        """Cut the connection off if its time is over."""
        if now < self._end:
            return
        self.was_late = True
        if self._connection is not None:
            with suppress(OSError):  # closed already
                self._connection.shutdown(socket.SHUT_RDWR)


class _Watcher:
    """Checks all watchdogs of the process in one thread: a Timer each would double a call's CPU."""

    def __init__(self) -> None:
        self._watched: set[_Watchdog] = set()
        self._thread = Thread()
        # A child shares the sockets of its parent, and must not cut them off.
        os.register_at_fork(after_in_child=self._watched.clear)

    def add(self, watchdog: _Watchdog) -> None:
        self._watched.add(watchdog)
        if not self._thread.is_alive():  # a second one, of another thread, would do no harm
            self._thread = Thread(target=self._run, name="storage-watcher", daemon=True)
            self._thread.start()

    def discard(self, watchdog: _Watchdog) -> None:
        self._watched.discard(watchdog)

    def _run(self) -> None:
        while True:
            time.sleep(MAX_ANSWER_SECONDS / 30)
            for watchdog in self._watched.copy():
                watchdog.check(time.monotonic())


_watcher = _Watcher()


@contextmanager
def cut_off_late(connection: socket.socket | None) -> Iterator[_Watchdog]:
    """Cut a connection off, and raise TimeoutError, if the block takes too long."""
    watchdog = _Watchdog(connection)
    try:
        yield watchdog
    finally:
        watchdog.stop()
    if watchdog.was_late:  # else what was read by then would count as the answer
        raise TimeoutError


class _BoundedConnection(awsrequest.AWSConnection):  # type: ignore[misc] # botocore has no types
    """Limits the time in which storage sends the head of an answer, and each `100 Continue`."""

    def getresponse(self, *args: Any, **kwargs: Any) -> Any:
        """Return the answer, which keeps the socket: urllib3 may take it off the connection."""
        connection, response = self.sock, None
        try:
            with cut_off_late(connection):
                response = super().getresponse(*args, **kwargs)
        except TimeoutError:
            if response is not None:
                response.close()
            raise
        response.answer_socket = connection
        return response

    def _handle_expect_response(self, message_body: Any) -> None:
        with cut_off_late(self.sock) as self._watchdog:
            super()._handle_expect_response(message_body)

    def _consume_headers(self, fp: Any) -> None:
        # botocore reads until an empty line, also if the connection has ended.
        for _ in range(_MAX_LINES):
            if fp.readline(_MAX_LINE_BYTES) in {b"\r\n", b""}:
                return
        raise ConnectionError  # the headers do not end

    def _send_message_body(self, message_body: Any) -> None:
        self._watchdog.stop()  # a body may take long
        super()._send_message_body(message_body)


class _HTTPConnection(_BoundedConnection, awsrequest.AWSHTTPConnection):  # type: ignore[misc]
    pass


class _HTTPSConnection(_BoundedConnection, awsrequest.AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _HTTPPool(awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _HTTPConnection


class _HTTPSPool(awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _HTTPSConnection


def bound_connections(session: Any) -> None:
    """Let a botocore HTTP session use these connections, also to a proxy."""
    pools = session._pool_classes_by_scheme  # noqa: SLF001 - botocore has no public name for it
    pools.update(http=_HTTPPool, https=_HTTPSPool)
