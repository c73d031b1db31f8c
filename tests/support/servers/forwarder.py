"""A TCP port of this machine that leads to another port, or to a Unix socket."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread

from worker.dev.child_processes import HOST


class ForwardingServer(ThreadingTCPServer):
    """A server with a thread for each connection, which it does not wait for at its end."""

    allow_reuse_address = True  # as a server does that listens on a reserved port
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    # Ignore errors of clients that disconnect.
    def handle_error(self, *_: object) -> None:
        pass


@contextmanager
def open_port(port: int, target: int | Path) -> Iterator[None]:
    """Forward connections from a port until the block ends; afterwards the port refuses them."""

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            with _connect(target) as server:
                answers = Thread(target=pump, args=(server, self.request), daemon=True)
                answers.start()
                pump(self.request, server)
                answers.join()

    with ForwardingServer((HOST, port), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


def _connect(target: int | Path) -> socket.socket:
    if isinstance(target, int):
        return socket.create_connection((HOST, target))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(target))
    return connection


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Send on what a connection receives, until it ends; then end the other one."""
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)
