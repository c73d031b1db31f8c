from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from threading import Thread


@dataclass(frozen=True)
class WebhookReceiver:
    """The URL of a running receiver, and the requests that it has received."""

    url: str
    requests: Queue[tuple[bytes, Mapping[str, str]]] = field(default_factory=Queue)


@contextmanager
def running_receiver() -> Iterator[WebhookReceiver]:
    """Receive webhooks on a free port of this machine until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        receiver = WebhookReceiver(f"http://127.0.0.1:{server.server_port}/hooks")
        server.RequestHandlerClass = _request_handler(receiver)
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}).start()
        try:
            yield receiver
        finally:
            server.shutdown()


def _request_handler(receiver: WebhookReceiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            receiver.requests.put((body, dict(self.headers)))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing, to keep the demo's output readable."""

    return Handler
