"""HTTP requests that are sent byte for byte: no URL or form field is normalized."""

import atexit
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import httpx

from valetkey.wire.replies import Grant

_http = httpx.Client(trust_env=False, timeout=20)
atexit.register(_http.close)


@dataclass(frozen=True)
class Request:
    """One HTTP request. `form` lists the parts of its form in order, with files as bytes.

    `file_name` is the file name that the form sends for its files.
    """

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = None
    form: Sequence[tuple[str, str | bytes]] = field(default=(), repr=False)
    file_name: str = "upload.bin"


class Response(NamedTuple):
    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def is_success(self) -> bool:
        return 200 <= self.status < 300


def send(request: Request) -> Response:
    host = urlsplit(request.url).netloc
    response = _http.request(
        request.method,
        f"http://{host}",
        headers=dict(request.headers),
        content=request.body,
        files=[
            (name, (request.file_name if isinstance(value, bytes) else None, value))
            for name, value in request.form
        ]
        or None,
        # httpx would normalize the path and the query
        extensions={"target": request.url.partition(host)[2].encode("ascii")},
    )
    return Response(response.status_code, response.headers, response.content)


def get(url: str) -> Request:
    return Request("GET", url)


def status(grant: Mapping[str, Any]) -> int:
    """Return the status of storage's response to the link of a grant."""
    return send(get(grant["url"])).status


def post(grant: Grant, file: bytes) -> Request:
    """Return the form upload of a grant: its fields, then the file."""
    return Request("POST", grant.url, form=[*grant.fields.items(), ("file", file)])


def put(grant: Grant, file: bytes) -> Request:
    """Return the PUT of a grant, with the grant's headers."""
    return Request("PUT", grant.url, grant.headers, file)


def completion_body(*etags: str) -> bytes:
    """Return the body that completes a multipart upload of parts with these ETags."""
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    return f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()


def completion(grant: Grant, *etags: str) -> Request:
    headers = {"content-type": "application/xml"}
    return Request("POST", grant.url, headers, completion_body(*etags))
