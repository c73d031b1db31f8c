"""Uploads a file by a multipart upload: several parts at once, by URLs requested as needed."""

import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from queue import SimpleQueue
from threading import Event
from types import MappingProxyType
from typing import IO, Annotated, NamedTuple
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from xml.sax.saxutils import escape

from valetkey.arguments import POSITIVE, TimeLimit, checked
from valetkey.delivery.pending_request import DEFAULT_TIMEOUT
from valetkey.errors import Refused, StorageError, UnusableGrant
from valetkey.handles import MultipartHandle
from valetkey.wire.refusals import Refusal
from valetkey.wire.replies import Grant

_TIMEOUT = 60  # seconds to connect a socket, and to read from it or write to it
_CHECK_TIMEOUT = 5.0  # seconds for a check that only protects an object
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_MAX_ERROR_BYTES = 10_000
_COMPLETE_ELEMENT = b"CompleteMultipartUploadResult"

_PARTS_PER_THREAD = 4  # in one request for URLs: few, so that no URL expires unused
_RETRY_DELAYS = (1, 4, 16)  # seconds before a part that storage did not store is tried again
_EXPIRES_IN = 3_600  # seconds; the service limits it to the policy and the upload's own expiry


class FileSlice:
    """A range of a file, as a stream from which urllib reads a request's body.

    offset and length are in bytes. on_progress is called with the size of each block that is read;
    sent_bytes is their sum, and sha256 their digest in hex. After stop_event is set, or if the file
    has become shorter, read() raises StorageError.
    """

    def __init__(
        self,
        stream: IO[bytes],
        offset: int,
        length: int,
        on_progress: Callable[[int], None],
        stop_event: Event,
    ) -> None:
        stream.seek(offset)
        self._stream = stream
        self._remaining = length
        self._on_progress = on_progress
        self._stop_event = stop_event
        self._digest = sha256()
        self.sent_bytes = 0

    @property
    def sha256(self) -> str:
        """The digest of what was read so far, in hex."""
        return self._digest.hexdigest()

    def read(self, size: int = -1) -> bytes:
        """Read at most size bytes, and never past the end of the range."""
        count = self._remaining if size < 0 else min(size, self._remaining)
        data = self._stream.read(count)
        if self._stop_event.is_set() or len(data) < count:
            raise StorageError("the upload was stopped, or its file became shorter")
        self._remaining -= len(data)
        self.sent_bytes += len(data)
        self._digest.update(data)
        self._on_progress(len(data))
        return data


def put_part(url: str, headers: dict[str, str], body: FileSlice) -> str:
    """Store a part, and return its ETag. Raises StorageError."""
    # Without an explicit type, urllib would send the type of a web form.
    all_headers = {"content-type": "application/octet-stream", **headers}
    request = Request(url, body, all_headers, method="PUT")  # noqa: S310 - the service's URL
    etag, _ = _open(request)
    return etag


def complete_upload(url: str, etags: dict[int, str]) -> None:
    """Complete an upload: join its parts into one object. Raises StorageError.

    etags has the ETag of each part by part number. Storage may send status 200 before it has
    finished, so the body is checked (AWS: API_CompleteMultipartUpload.html).
    """
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
        for number, etag in sorted(etags.items())
    )
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    headers = {"content-type": "application/xml"}
    _, response_body = _open(Request(url, body, headers, method="POST"))  # noqa: S310 - as above
    if _COMPLETE_ELEMENT not in response_body:
        raise StorageError(f"storage did not complete the upload: {_error_code(response_body)}")


def abort_upload(url: str) -> None:
    """Abort an upload: storage deletes its parts. Raises StorageError."""
    _open(Request(url, method="DELETE"))  # noqa: S310 - as above


def object_exists(url: str) -> bool:
    """Return True if storage answers a HEAD with an object; False also if it does not answer."""
    try:
        _open(Request(url, method="HEAD"), _CHECK_TIMEOUT)  # noqa: S310 - as above
    except StorageError:
        return False
    return True


def _open(request: Request, timeout: float = _TIMEOUT) -> tuple[str, bytes]:
    """Send a request; return the ETag and the body of the response."""
    try:
        with urlopen(request, timeout=timeout) as response:  # noqa: S310 - as above
            return response.headers.get("ETag", ""), response.read()
    except HTTPError as error:
        with error:
            body = error.read(_MAX_ERROR_BYTES)
        raise StorageError(f"storage answered {error.code}: {_error_code(body)}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None)
        name = type(reason if isinstance(reason, Exception) else error).__name__
        raise StorageError(f"storage cannot be reached ({name})") from None


def _error_code(body: bytes) -> str:
    # Only the code: the rest of the body may quote the request and its signature.
    match = _ERROR_CODE.search(body)
    return match[1].decode() if match else "no reason given"


class StoredPart(NamedTuple):
    """A part that storage has: the ETag that completes the upload, and the SHA-256 in hex."""

    etag: str
    sha256: str


class MultipartUploader:
    """Sends a file by a multipart upload that was requested for it.

    stored_parts has the parts that storage has already, by part number; they are not sent again.
    on_stored is called with each further part, by the thread that calls run(): keep them, and a
    later MultipartUploader can resume.

    `parallel` parts are sent at once, each by its own thread. on_progress is called by these
    threads with the number of bytes sent; a negative number subtracts the bytes of a failed part,
    which is sent again. timeout is the longest wait for a reply of the service, in seconds.
    """

    @checked
    def __init__(  # noqa: PLR0913 - most have a default
        self,
        upload: MultipartHandle,
        path: Path,
        *,
        parallel: Annotated[int, POSITIVE] = 4,
        timeout: TimeLimit = DEFAULT_TIMEOUT,
        stored_parts: Mapping[int, StoredPart] = MappingProxyType({}),
        on_stored: Callable[[int, StoredPart], None] = lambda _number, _part: None,
        on_progress: Callable[[int], None] = lambda _: None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._upload = upload
        self._path = path
        self._parallel = parallel
        self._timeout = timeout
        self._on_progress = on_progress
        self._sleep = sleep
        self._stop_event = Event()
        self._pool = ThreadPoolExecutor(parallel)
        self._parts = dict(stored_parts)
        self._on_stored = on_stored
        self._futures: dict[Future[StoredPart], int] = {}

    def run(self) -> None:
        """Send all parts and complete the upload.

        Raises Refused, NoAnswer, BrokerUnreachable, UnusableGrant, OSError, and StorageError if
        storage does not store a part after several tries. The upload then remains open, and should
        be aborted.
        """
        grant = self._upload.result(self._timeout)
        upload = grant.multipart
        if upload is None:
            raise StorageError("the service did not start a multipart upload")
        if grant.method != "POST":
            raise UnusableGrant(grant.method)
        numbers, step = range(1, upload.part_count + 1), self._parallel * _PARTS_PER_THREAD
        try:
            for first in range(0, upload.part_count, step):
                self._store_parts(numbers[first : first + step], upload.part_size)
        finally:
            self._stop_event.set()
            self._pool.shutdown(cancel_futures=True)
            self._add_finished_parts()
        etags = {number: part.etag for number, part in self._parts.items()}
        complete_upload(grant.url, etags)

    def _store_parts(self, numbers: Sequence[int], part_size: int) -> None:
        for delay in (*_RETRY_DELAYS, None):
            missing = [number for number in numbers if number not in self._parts]
            error = self._try_parts(missing, part_size) if missing else None
            if error is None:
                return
            if delay is None:
                raise error
            self._sleep(delay)

    def _try_parts(self, numbers: Sequence[int], part_size: int) -> StorageError | None:
        """Send parts by new URLs; return the error of one that was not stored, if any."""
        self._futures = {
            self._pool.submit(self._send, grant, (number - 1) * part_size): number
            for grant in self._request_grants(numbers)
            if (number := grant.part or 0) in numbers
        }
        error, done_futures = None, SimpleQueue[Future[StoredPart]]()
        for future in self._futures:  # not as_completed: Ctrl-C in it leaves futures locked forever
            future.add_done_callback(done_futures.put)
        for _ in self._futures:
            future = done_futures.get()
            try:
                self._add(self._futures[future], future.result())
            except StorageError as not_stored:
                error = not_stored
        return error

    def _add(self, number: int, part: StoredPart) -> None:
        if number not in self._parts:
            self._parts[number] = part
            self._on_stored(number, part)

    def _add_finished_parts(self) -> None:
        """Add the parts that were stored after an interruption, and not seen."""
        for future, number in self._futures.items():
            if not future.cancelled() and future.exception() is None:
                self._add(number, future.result())

    def _request_grants(self, numbers: Sequence[int]) -> list[Grant]:
        # min_expires_in=1: a policy with a lower limit shortens the expiry instead of refusing.
        batch = self._upload.parts(
            numbers[0], numbers[-1], expires_in=_EXPIRES_IN, min_expires_in=1
        )
        results = list(batch.results(self._timeout))
        for result in results:
            if isinstance(result, Refusal):
                raise Refused(result)
        return [result for result in results if isinstance(result, Grant)]

    def _send(self, grant: Grant, offset: int) -> StoredPart:
        if grant.method != "PUT":
            raise UnusableGrant(grant.method)
        with self._path.open("rb") as stream:
            length = int(grant.headers["content-length"])
            body = FileSlice(stream, offset, length, self._on_progress, self._stop_event)
            try:
                etag = put_part(grant.url, grant.headers, body)
            except StorageError:
                self._on_progress(-body.sent_bytes)
                raise
            return StoredPart(etag, body.sha256)
