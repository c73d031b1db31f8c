"""A storage that keeps what it is sent and checks nothing: what a client really sends is seen."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, NamedTuple


class StoredRequest(NamedTuple):
    """One request; the names of its headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


class StorageAnswer(NamedTuple):
    """What it is answered."""

    status: int = 200
    headers: Mapping[str, str] = {}
    body: bytes = b""


class HttpStorage(ThreadingHTTPServer):
    """A server on a free port, and what it was sent."""

    daemon_threads = False

    def __init__(self, answer: Callable[[StoredRequest], StorageAnswer]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer
        self.received: list[StoredRequest] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def sent(self, method: str) -> list[StoredRequest]:
        """The requests of one method."""
        return [request for request in self.received if request.method == method]


@contextmanager
def running_http_storage(
    answer: Callable[[StoredRequest], StorageAnswer] = lambda _: StorageAnswer(),
) -> Iterator[HttpStorage]:
    """A storage that answers so, until the block ends."""
    with HttpStorage(answer) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))  # seconds to notice the end
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: HttpStorage

    def _take(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        request = StoredRequest(self.command, self.path, headers, body)
        self.server.received.append(request)
        answer = self.server.answer(request)
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else answer.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _take  # noqa: N815 - names of http.server

    def log_message(self, *_: Any) -> None:
        pass
