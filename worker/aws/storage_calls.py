"""Makes one call to storage, and sorts what comes back: a response, an answer, or no answer.

A timeout of a socket limits the time of each read. A server that sends one byte in a while, one
header after the other, or `100 Continue` again and again, would hold a worker for ever.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from threading import Event, Timer
from typing import Any

from botocore import awsrequest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    HTTPClientError,
    ParamValidationError,
)
from botocore.parsers import ResponseParserError

from worker.errors import StorageSilent, Transient
from worker.rules.storage_errors import UNREADABLE, ErrorResponse

MAX_ANSWER_SECONDS = 30.0
"""The time for the head of an answer, and again for its body."""

_MAX_LINES, _MAX_LINE_BYTES = 100, 65_536


@contextmanager
def cut_off_late(connection: socket.socket | None) -> Iterator[Timer]:
    """Cut a connection off, and raise TimeoutError, if the block takes too long.

    Reads then end as if the server had closed it: without the error, what was read by then would
    count as the answer. The block may cancel the timer.
    """
    was_late = Event()

    def cut_off() -> None:
        was_late.set()
        if connection is not None:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)

    timer = Timer(MAX_ANSWER_SECONDS, cut_off)
    timer.daemon = True
    try:
        timer.start()
        yield timer
    finally:
        timer.cancel()
    if was_late.is_set():
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
        with cut_off_late(self.sock) as self._timer:
            super()._handle_expect_response(message_body)

    def _consume_headers(self, fp: Any) -> None:
        # botocore reads until an empty line, also if the connection has ended.
        for _ in range(_MAX_LINES):
            if fp.readline(_MAX_LINE_BYTES) in {b"\r\n", b""}:
                return
        raise ConnectionError  # the headers do not end

    def _send_message_body(self, message_body: Any) -> None:
        self._timer.cancel()  # a body may take long
        super()._send_message_body(message_body)


class _HTTPConnection(_BoundedConnection, awsrequest.AWSHTTPConnection):  # type: ignore[misc]
    pass


class _HTTPSConnection(_BoundedConnection, awsrequest.AWSHTTPSConnection):  # type: ignore[misc]
    pass


class _HTTPPool(awsrequest.AWSHTTPConnectionPool):  # type: ignore[misc]
    ConnectionCls = _HTTPConnection


class _HTTPSPool(awsrequest.AWSHTTPSConnectionPool):  # type: ignore[misc]
    ConnectionCls = _HTTPSConnection


MAX_ANSWER_BYTES = 2 * 1024**2  # a list of 1,000 uploads has half of that
MAX_BODY_SECONDS = 20.0  # a body that comes slowly; one that stops is cut off later
# botocore raises these for what is not S3's XML.
_UNREADABLE_ERRORS = (
    ResponseParserError,
    ArithmeticError,
    AttributeError,
    KeyError,
    RuntimeError,
    TypeError,
    ValueError,
)
_READ_BYTES = 64 * 1024
_BAD_REQUEST = 400
_FIRST_ERROR = 300
_IS_SUCCESS = "x-valetkey-is-success"  # a header that is added to answers, for read_error_response


def call_storage(call: Callable[..., Any], **params: Any) -> dict[str, Any] | ErrorResponse:
    """Call a method of a boto3 client; return its response, or storage's permanent answer.

    Answers that reject the credentials are returned as well: other ones may be accepted. Raises
    StorageSilent if storage does not answer, and Transient if the same call may succeed later.
    """
    try:
        response: dict[str, Any] = call(**params)
    except ClientError as error:
        answer = read_error_response(error)
    except ParamValidationError:
        # boto3 itself refuses a parameter, and quotes it.
        return ErrorResponse(_BAD_REQUEST, "ParamValidationError")
    except BotoCoreError as error:
        raise StorageSilent(f"storage does not answer: {type(error).__name__}") from None
    except _UNREADABLE_ERRORS:
        return UNREADABLE
    else:
        return response
    if answer.is_transient and not answer.rejects_credentials:
        raise Transient(f"storage cannot do it now: {answer.words}", "storage")
    return answer


def read_error_response(error: ClientError) -> ErrorResponse:
    """Return the status, code and message of an error, which need not be those of S3."""
    response: Any = error.response
    details, metadata = response.get("Error") or {}, response.get("ResponseMetadata", {})
    status = metadata.get("HTTPStatusCode", _BAD_REQUEST)
    answer = ErrorResponse(status, _text(details.get("Code")), _text(details.get("Message")))
    # botocore reports a success that it cannot read as a failure of the server.
    is_success = metadata.get("HTTPHeaders", {}).get(_IS_SUCCESS) == "true"
    return UNREADABLE if is_success and not answer.is_named else answer


def _text(value: object) -> str:
    """Return a text; elements that contain others, or nothing, are not one."""
    return value.strip() if isinstance(value, str) else ""


def bound_responses(client: Any) -> None:
    """Let a boto3 client read no more of an answer than S3 would send, in bounded time."""
    endpoint = client._endpoint  # noqa: SLF001 - botocore has no public name for its HTTP session
    session = endpoint.http_session
    pools = session._pool_classes_by_scheme  # noqa: SLF001 - nor for these, also those to a proxy
    pools.update(http=_HTTPPool, https=_HTTPSPool)
    endpoint.http_session = _BoundedSession(session)
    client.meta.events.register("before-call.s3.HeadBucket", _answer_head_bucket)


def _answer_head_bucket(**_: object) -> tuple[AWSResponse, dict[str, Any]]:
    """Answer botocore, which asks for a bucket's region if storage redirects without naming it.

    It would ask again for each redirect of such a question, a hundred times in one call. AWS names
    the region in the redirect.
    """
    unknown = {"Error": {"Code": "404"}, "ResponseMetadata": {"HTTPHeaders": {}}}
    return AWSResponse("", HTTPStatus.NOT_FOUND, {}, None), unknown


class _BoundedSession:
    """The HTTP session of a boto3 client, which reads no more of an answer than S3 would send.

    Longer answers are cut off: as XML they are then unreadable, which is what they are anyway.
    """

    def __init__(self, session: Any) -> None:
        self._session = session

    def send(self, request: Any) -> AWSResponse:
        """Send a request. Only bodies that the caller does not stream are bounded."""
        if request.stream_output:
            return self._session.send(request)
        request.stream_output = True
        try:
            response = self._session.send(request)
        except ConnectionClosedError:  # perhaps while it was not used
            if request.method != "HEAD":
                raise
            response = self._session.send(request)
        body = _BoundedBody(response.raw)
        headers = dict(response.headers)
        headers[_IS_SUCCESS] = "true" if response.status_code < _FIRST_ERROR else "false"
        bounded = AWSResponse(response.url, response.status_code, headers, body)
        try:
            with cut_off_late(getattr(response.raw, "answer_socket", None)):
                _ = bounded.content  # botocore reads it when it pleases, but errors belong here
        except Exception as error:  # noqa: BLE001 - urllib3 raises many
            response.raw.close()
            raise HTTPClientError(error=type(error).__name__) from None
        return bounded

    def close(self) -> None:
        """Close the session's connections."""
        self._session.close()


class _BoundedBody:
    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def stream(self) -> Iterator[bytes]:
        """Yield the body, up to the limits of bytes and seconds."""
        left, end = MAX_ANSWER_BYTES, time.monotonic() + MAX_BODY_SECONDS
        while chunk := self._raw.read1(min(_READ_BYTES, left)):
            yield chunk
            left -= len(chunk)
            if left <= 0 or time.monotonic() > end:
                self._raw.close()  # the connection has more to read: it cannot be used again
                return
        self._raw.release_conn()
