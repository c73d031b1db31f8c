"""A receiver of webhooks, for the demo; as a program, it verifies one and prints its keys."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread

from valetkey.webhooks import GrantsDecided, InvalidWebhook, unwrap

_TIMEOUT = 120.0  # seconds


@dataclass(frozen=True)
class WebhookReceiver:
    """The URL of a running receiver, and the requests that it has received."""

    url: str
    requests: Queue[tuple[bytes, Mapping[str, str]]] = field(default_factory=Queue)


@contextmanager
def running_receiver(port: int = 0) -> Iterator[WebhookReceiver]:
    """Receive webhooks on a port of this machine, by default a free one, until the block ends."""
    with ThreadingHTTPServer(("127.0.0.1", port), BaseHTTPRequestHandler) as server:
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


def main(secret_file: str, port: str) -> str:
    """Return the keys of the first results that arrive; the program ends with any other text."""
    secrets = Path(secret_file).read_text(encoding="utf-8").split()
    with running_receiver(int(port)) as receiver:
        try:
            event = unwrap(*receiver.requests.get(timeout=_TIMEOUT), secrets)
        except Empty:
            sys.exit(f"no webhook arrived at {receiver.url} in {_TIMEOUT:.0f} s")
        except InvalidWebhook as error:
            sys.exit(f"not verified: {error}")
    if not isinstance(event, GrantsDecided):
        sys.exit(f"not about results: {event.type}")
    keys = ", ".join(str(item.key) for item in event.data.items)
    return f"verified webhook of batch {event.data.batch}: {keys}"


if __name__ == "__main__":
    sys.stdout.write(f"{main(*sys.argv[1:])}\n")
