"""Requests to storage by the URLs of a multipart upload: store a part, complete, abort."""

import re
from collections.abc import Callable
from hashlib import sha256
from http.client import HTTPException
from threading import Event
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from xml.sax.saxutils import escape

from valetkey.errors import StorageError

_TIMEOUT = 60  # seconds to connect a socket, and to read from it or write to it
_CHECK_TIMEOUT = 5.0  # seconds for a check that only protects an object
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_MAX_ERROR_BYTES = 10_000
_COMPLETE_ELEMENT = b"CompleteMultipartUploadResult"


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
