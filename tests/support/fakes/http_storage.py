"""A storage that keeps every request and checks nothing, to see what a client really sends."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from itertools import count
from typing import Any, NamedTuple

from tests.support.fakes.socket_server import QuietServer, serving


class StoredRequest(NamedTuple):
    """One request; the names of its headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class StorageResponse(NamedTuple):
    """The response to one request; of status 0, nothing is sent and the connection is closed."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes = b""


class HttpStorage(QuietServer):
    """A server on a free port, and the requests that it received."""

    def __init__(self, respond: Callable[[StoredRequest], StorageResponse]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.respond = respond
        self.received: list[StoredRequest] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def requests(self, method: str) -> list[StoredRequest]:
        return [request for request in self.received if request.method == method]


@contextmanager
def running_http_storage(
    respond: Callable[[StoredRequest], StorageResponse] = lambda _: StorageResponse(),
) -> Iterator[HttpStorage]:
    server = HttpStorage(respond)
    with serving(server):
        yield server


class _Handler(BaseHTTPRequestHandler):
    server: HttpStorage

    def _handle(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        length = int(headers.get("content-length", 0))
        body = self.rfile.read(length)
        # No storage stores part of a body. A client that stopped may be gone by now.
        if len(body) < length:
            return
        request = StoredRequest(self.command, self.path, headers, body)
        self.server.received.append(request)
        response = self.server.respond(request)
        if not response.status:
            return
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if "content-length" not in response.headers:  # else it is that of an object, for a HEAD
            self.send_header("content-length", str(len(response.body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else response.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = _handle  # noqa: N815 - http.server's

    def log_message(self, *_: Any) -> None:
        pass


class MemoryStorage:
    """A storage that checks nothing, and keeps objects and uploads in memory."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: set[str] = set()
        self._ids = count()

    def __call__(self, request: StoredRequest) -> StorageResponse:
        key, _, query = request.target.partition("?")
        upload = re.search("uploadId=([^&]+)", query)
        if request.method == "POST" and query.startswith("uploads"):
            upload_id = f"upload-{next(self._ids)}"
            self.uploads.add(upload_id)
            return StorageResponse(body=f"<R><UploadId>{upload_id}</UploadId></R>".encode())
        if request.method in {"DELETE", "POST"} and upload:
            self.uploads.discard(upload[1])
        elif request.method == "DELETE":
            self.objects.pop(key, None)
        elif request.method == "PUT":
            self.objects[key] = request.body
        elif request.method in {"GET", "HEAD"}:
            return StorageResponse(body=self.objects.get(key, b""))
        return StorageResponse()
