"""Webhook endpoints on loopback, some of them ill-behaved, and the names that lead to them."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from worker.core.webhooks.addresses import Address

Answer = Callable[[BaseHTTPRequestHandler], None]


class Names:
    """A resolver that gives one answer after the other, and the last one for ever."""

    def __init__(self, *answers: Sequence[Address]) -> None:
        self._answers = answers
        self.asked: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.asked.append((host, port))
        return self._answers[min(len(self.asked), len(self._answers)) - 1]


@dataclass
class Receiver:
    """What an endpoint saw."""

    port: int = 0
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    names: list[str | None] = field(default_factory=list)  # asked for by SNI


def answer(status: int = 204, **headers: str) -> Answer:
    """Answer with a status and headers (an underscore stands for a hyphen), and no body."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return respond


def stream(piece: bytes, pause: float = 0) -> Answer:
    """Answer 200 and a body without an end, a piece at a time, until the other side hangs up."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        _repeat(handler, piece, pause)

    return respond


def say(line: bytes) -> Answer:
    """Send these bytes instead of an answer, and hang up."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(line)

    return respond


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    """Send a status line that never ends, a byte at a time."""
    handler.wfile.write(b"HTTP/1.1 200 ")
    _repeat(handler, b"O", 0.05)


def _repeat(handler: BaseHTTPRequestHandler, piece: bytes, pause: float) -> None:
    never = threading.Event()
    while not never.wait(pause):
        handler.wfile.write(piece)


@contextmanager
def receiving(respond: Answer, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """An endpoint that records what it gets and answers as told."""
    receiver = Receiver()
    with _server(receiver, respond) as server:
        receiver.port = server.server_address[1]
        if tls:
            tls.sni_callback = lambda _, name, __: receiver.names.append(name)
            server.socket = tls.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


def _server(receiver: Receiver, respond: Answer) -> ThreadingHTTPServer:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.paths.append(self.path)
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.headers.append(dict(self.headers))
            receiver.bodies.append(body)
            respond(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = False

        # Raised by a client that hangs up, which is what several tests wait for.
        def handle_error(self, *_: object) -> None:
            pass

    return Server(("127.0.0.1", 0), Handler)


@contextmanager
def listening() -> Iterator[socket.socket]:
    """A socket that answers nothing; `touched` tells whether anyone came."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def touched(listener: socket.socket) -> bool:
    """Whether a connection was made: the kernel completes it before the caller knows."""
    with suppress(BlockingIOError):
        listener.accept()[0].close()
        return True
    return False
