"""Webhook endpoints on loopback, some of which misbehave, and a resolver that leads to them."""

import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.support.fakes.socket_server import QuietServer, serving
from worker.webhooks.webhook_connection import Address

Responder = Callable[[BaseHTTPRequestHandler], None]


class FakeResolver:
    """A resolver that returns its answers one after another, then repeats the last one."""

    def __init__(self, *answers: Sequence[Address]) -> None:
        self._answers = answers
        self.lookups: list[tuple[str, int]] = []

    def __call__(self, host: str, port: int) -> Sequence[Address]:
        self.lookups.append((host, port))
        return self._answers[min(len(self.lookups), len(self._answers)) - 1]


@dataclass
class WebhookReceiver:
    """The requests that an endpoint received, the number of its connections, and the open ones."""

    respond: Responder = field(default=lambda _: None, repr=False)
    port: int = 0
    connections: int = 0
    open: set[socket.socket] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    sni_names: list[str | None] = field(default_factory=list)


def respond_with(status: int = 204, **headers: str) -> Responder:
    """Return a responder that sends a status and headers without a body.

    An underscore in a header's name stands for a hyphen.
    """

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return respond


def take_turns(*responders: Responder) -> Responder:
    """Return a responder that responds with each of these in turn, and then with the last one."""
    count = itertools.count()

    def respond(handler: BaseHTTPRequestHandler) -> None:
        responders[min(next(count), len(responders) - 1)](handler)

    return respond


def stream_body(piece: bytes, pause: float = 0) -> Responder:
    """Return a responder that sends 200 and pieces of a body until the client disconnects."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        _repeat(handler, piece, pause)

    return respond


def send_bytes(
    content: bytes, *repeated: bytes, pause: float = 0, closes: bool = True
) -> Responder:
    """Return a responder that sends bytes, and some of them again until the client disconnects."""

    def respond(handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = closes
        handler.wfile.write(content)
        for piece in repeated:
            _repeat(handler, piece, pause)

    return respond


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    """Send an endless status line, one byte at a time."""
    send_bytes(b"HTTP/1.1 200 ", b"O", pause=0.05)(handler)


def _repeat(handler: BaseHTTPRequestHandler, piece: bytes, pause: float) -> None:
    never = threading.Event()
    while not never.wait(pause):
        handler.wfile.write(piece)


class _Handler(BaseHTTPRequestHandler):
    """Records a request, and responds to it."""

    disable_nagle_algorithm = True
    receiver: WebhookReceiver

    def setup(self) -> None:
        super().setup()
        with self.receiver.lock:
            self.receiver.connections += 1
            self.receiver.open.add(self.connection)

    def finish(self) -> None:
        with self.receiver.lock:
            self.receiver.open.discard(self.connection)
        super().finish()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.receiver.lock:  # the same index in each list is the same request
            self.receiver.paths.append(self.path)
            self.receiver.headers.append(dict(self.headers))
            self.receiver.bodies.append(body)
        self.receiver.respond(self)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def running_receiver(
    respond: Responder,
    tls: ssl.SSLContext | None = None,
    *,
    keeps_alive: bool = False,
    address: tuple[str, int] = ("127.0.0.1", 0),
) -> Iterator[WebhookReceiver]:
    """Run an endpoint that records its requests and responds as told."""
    version = "HTTP/1.1" if keeps_alive else "HTTP/1.0"
    receiver = WebhookReceiver(respond)
    values = {"protocol_version": version, "receiver": receiver}
    server = QuietServer(address, type("Handler", (_Handler,), values))
    receiver.port = server.server_address[1]
    if tls:
        tls.sni_callback = lambda _, name, __: receiver.sni_names.append(name)
        server.socket = tls.wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    with serving(server):
        try:
            yield receiver
        finally:
            for connection in list(receiver.open):
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def silent_endpoint() -> Iterator[socket.socket]:
    """Yield a listening socket that never responds; see has_connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        yield listener


def has_connection(listener: socket.socket) -> bool:
    """Return whether a client connected; the kernel accepts connections by itself."""
    with suppress(BlockingIOError):
        listener.accept()[0].close()
        return True
    return False


def is_closed_by_client(listener: socket.socket) -> bool:
    """Accept a connection; return whether the client closed it."""
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(1)
        try:
            while connection.recv(65_536):
                pass
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False
    return True
