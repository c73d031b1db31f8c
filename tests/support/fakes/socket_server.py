"""Servers in threads, some of which do not answer as an HTTP server should."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import ThreadingHTTPServer
from socketserver import BaseRequestHandler, BaseServer, TCPServer
from threading import Event, Thread
from typing import Any

Answer = Callable[[socket.socket, Event], None]
"""Answers one connection; the event is set when the server ends."""


class QuietServer(ThreadingHTTPServer):
    """A server that waits for its threads, and ignores that clients disconnect."""

    daemon_threads = False
    request_queue_size = 128

    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def serving(server: BaseServer) -> Iterator[None]:
    """Run a server in a thread until the block ends."""
    with server:
        thread = Thread(target=server.serve_forever, args=(0.01,))  # seconds to notice the end
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def running_socket_server(answer: Answer) -> Iterator[str]:
    """Run a server that answers each connection with a function, until the block ends."""
    stopped = Event()

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            answer(self.request, stopped)

    class Server(TCPServer):
        def shutdown_request(self, request: Any) -> None:
            request.close()  # without a shutdown, which would hide that an answer is a reset

    server = Server(("127.0.0.1", 0), Handler)
    with serving(server):
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            stopped.set()


def stay_silent(_: socket.socket, stopped: Event) -> None:
    stopped.wait()


def repeat(begin: bytes, piece: bytes) -> Answer:
    """Return an answer that begins, and then repeats a piece without an end."""

    def answer(connection: socket.socket, stopped: Event) -> None:
        with suppress(OSError):
            connection.recv(65_536)
            connection.sendall(begin)
            while not stopped.wait(0.01):
                connection.sendall(piece)

    return answer


def drip(connection: socket.socket, stopped: Event) -> None:
    repeat(b"HTTP/1.1 200 OK\r\n", b"x-more: 1\r\n")(connection, stopped)


def respond(content: bytes) -> Answer:
    """Return an answer of these bytes."""

    def answer(connection: socket.socket, _: Event) -> None:
        connection.recv(65_536)
        connection.sendall(content)

    return answer


def send_garbage(connection: socket.socket, stopped: Event) -> None:
    respond(b"\x00\x01 this is not HTTP\r\n\r\n")(connection, stopped)


def answer_http(connection: socket.socket, stopped: Event) -> None:
    respond(b"HTTP/1.1 400 Bad Request\r\n\r\n")(connection, stopped)
