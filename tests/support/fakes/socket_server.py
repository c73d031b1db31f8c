"""Servers that do not answer as an HTTP server should."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread

Answer = Callable[[socket.socket, Event], None]
"""Answers one connection; the event is set when the server ends."""


@contextmanager
def running_socket_server(answer: Answer) -> Iterator[str]:
    """Run a server that answers each connection with a function, until the block ends."""
    stopped = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    answer(connection, stopped)

        thread = Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            stopped.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def stay_silent(_: socket.socket, stopped: Event) -> None:
    stopped.wait()


def drip(connection: socket.socket, stopped: Event) -> None:
    _drip(connection, stopped, b"HTTP/1.1 200 OK\r\n", b"x-more: 1\r\n")


def drip_body(connection: socket.socket, stopped: Event) -> None:
    head = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 1000000\r\n\r\n"
    _drip(connection, stopped, head, b" ")


def _drip(connection: socket.socket, stopped: Event, head: bytes, more: bytes) -> None:
    connection.sendall(head)
    try:
        while not stopped.wait(0.01):
            connection.sendall(more)
    except OSError:
        pass


def send_garbage(connection: socket.socket, _: Event) -> None:
    connection.recv(65_536)
    connection.sendall(b"\x00\x01 this is not HTTP\r\n\r\n")


def refuse_tls(connection: socket.socket, _: Event) -> None:
    connection.recv(65_536)
    connection.sendall(b"N")


def agree_to_tls(connection: socket.socket, _: Event) -> None:
    connection.recv(65_536)
    connection.sendall(b"S")


def answer_http(connection: socket.socket, _: Event) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
