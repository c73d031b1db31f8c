from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Thread


@dataclass(frozen=True)
class Received:
    """Where webhooks can be sent, and what came."""

    url: str
    requests: Queue[tuple[bytes, Mapping[str, str]]] = field(default_factory=Queue)


@contextmanager
def receiving() -> Iterator[Received]:
    """Receive webhooks on a free port of this machine until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        received = Received(f"http://127.0.0.1:{server.server_port}/hooks")
        server.RequestHandlerClass = _handler(received)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield received
        finally:
            server.shutdown()


def _handler(received: Received) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            received.requests.put((body, dict(self.headers)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing: the demo speaks for itself."""

    return Handler
