"""TCP ports of this machine that lead to another port or to a Unix socket, also as a TLS server."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread

from tests.support.fakes.socket_server import serving
from worker.dev.child_processes import HOST


class _Server(ThreadingTCPServer):
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
                answers = Thread(target=_pump, args=(server, self.request), daemon=True)
                answers.start()
                _pump(self.request, server)
                answers.join()

    with serving(_Server((HOST, port), Handler)):
        yield


def _connect(target: int | Path) -> socket.socket:
    if isinstance(target, int):
        return socket.create_connection((HOST, target))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(target))
    return connection


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Send on what a connection receives, until it ends; then end the other one."""
    with suppress(OSError):
        while data := source.recv(65_536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_RDWR)


@dataclass
class TlsProxy:
    """A running proxy: the failed handshakes, and the bytes that clients sent after good ones."""

    port: int = 0
    failures: list[str] = field(default_factory=list)
    received: int = 0


@contextmanager
def running_tls_proxy(
    context: ssl.SSLContext, target_port: int, *, closes: bool = True
) -> Iterator[TlsProxy]:
    """Run a proxy that forwards what it decrypts to a port: the wheel of Valkey has no TLS.

    If not `closes`, it does not respond to the end of TLS, only to the end of the TCP connection.
    """
    proxy = TlsProxy()

    class Handler(BaseRequestHandler):
        def handle(self) -> None:
            try:
                client = context.wrap_socket(self.request, server_side=True)
            except OSError as error:
                proxy.failures.append(str(error))
                return
            with client, socket.create_connection((HOST, target_port)) as server:
                answers = Thread(target=_pump, args=(server, client), daemon=True)
                answers.start()
                with suppress(OSError):
                    while data := client.recv(65_536):
                        proxy.received += len(data)
                        server.sendall(data)
                if not closes:
                    _wait_for_end_of_tcp(client)
                with suppress(OSError):
                    server.shutdown(socket.SHUT_RDWR)
                answers.join()

    server = _Server((HOST, 0), Handler)
    proxy.port = server.server_address[1]
    with serving(server):
        yield proxy


def _wait_for_end_of_tcp(client: ssl.SSLSocket) -> None:
    with suppress(OSError):
        while socket.socket.recv(client, 65_536):
            pass
