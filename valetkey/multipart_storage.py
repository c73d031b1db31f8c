"""What is sent to storage itself, by the URLs of a multipart upload's grants."""

import re
from collections.abc import Callable
from http.client import HTTPException
from threading import Event
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen
from xml.sax.saxutils import escape

from valetkey.errors import NotStored

_PATIENCE = 60  # seconds, for a socket to open or to take or give the next bytes
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_LONGEST_ERROR = 10_000  # bytes
_DONE = b"CompleteMultipartUploadResult"


class FileSlice:
    """So many bytes of a file from an offset on, as urllib reads what it sends.

    say is told of the bytes as they are read, sent counts them. Once halt is set there are no more:
    NotStored is raised, as for a file that became shorter.
    """

    def __init__(
        self, stream: IO[bytes], offset: int, length: int, say: Callable[[int], None], halt: Event
    ) -> None:
        stream.seek(offset)
        self._stream = stream
        self._left = length
        self._say = say
        self._halt = halt
        self.sent = 0

    def read(self, size: int = -1) -> bytes:
        """Read on; never past the piece's end."""
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._stream.read(wanted)
        if self._halt.is_set() or len(data) < wanted:
            raise NotStored("the upload was stopped, or its file became shorter")
        self._left -= len(data)
        self.sent += len(data)
        self._say(len(data))
        return data


def put_part(url: str, headers: dict[str, str], piece: FileSlice) -> str:
    """Store a piece, and return its ETag. Raises NotStored."""
    # Without a type of ours, urllib would call it a web form's.
    request = Request(  # noqa: S310 - the service's URL
        url, piece, {"content-type": "application/octet-stream", **headers}, method="PUT"
    )
    etag, _ = _answer(request)
    return etag


def complete_upload(url: str, etags: dict[int, str]) -> None:
    """Make one object of the parts, by their numbers. Raises NotStored.

    Storage may say 200 before it knows (AWS: API_CompleteMultipartUpload.html).
    """
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
        for number, etag in sorted(etags.items())
    )
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    kind = {"content-type": "application/xml"}
    _, said = _answer(Request(url, body, kind, method="POST"))  # noqa: S310 - as above
    if _DONE not in said:
        raise NotStored(f"storage did not complete the upload: {_code(said)}")


def abort_upload(url: str) -> None:
    """Forget an upload and its parts. Raises NotStored."""
    _answer(Request(url, method="DELETE"))  # noqa: S310 - as above


def _answer(request: Request) -> tuple[str, bytes]:
    try:
        with urlopen(request, timeout=_PATIENCE) as answer:  # noqa: S310 - as above
            return answer.headers.get("ETag", ""), answer.read()
    except HTTPError as error:
        with error:
            said = error.read(_LONGEST_ERROR)
        raise NotStored(f"storage answered {error.code}: {_code(said)}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None)
        name = type(reason if isinstance(reason, Exception) else error).__name__
        raise NotStored(f"storage cannot be reached ({name})") from None


def _code(said: bytes) -> str:
    # The code alone: the rest of what storage says may quote the request.
    found = _CODE.search(said)
    return found[1].decode() if found else "no reason given"
