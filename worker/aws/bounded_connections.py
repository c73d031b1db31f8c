"""HTTP connections to storage on which no answer takes longer than it may.

A timeout of a socket limits the time of each read. A server that sends one byte in a while, one
header after the other, or `100 Continue` again and again, would hold a worker for ever.
"""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Timer
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
        self._timer = Timer(MAX_ANSWER_SECONDS, self._cut_off)
        self._timer.daemon = True
        self._timer.start()

    def stop(self) -> None:
        """Let the connection be."""
        self._timer.cancel()

    def _cut_off(self) -> None:
        self.was_late = True
        if self._connection is not None:
            with suppress(OSError):  # closed already
                self._connection.shutdown(socket.SHUT_RDWR)


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
