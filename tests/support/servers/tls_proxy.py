"""A TLS server in front of a server without TLS: the wheel of Valkey is built without it."""

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from socketserver import BaseRequestHandler
from threading import Thread

from tests.support.servers.forwarder import ForwardingServer, pump
from worker.dev.child_processes import HOST


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
    """Run a proxy that forwards what it decrypts to a port of this machine.

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
                answers = Thread(target=pump, args=(server, client), daemon=True)
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

    with ForwardingServer((HOST, 0), Handler) as server:
        proxy.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()


def _wait_for_end_of_tcp(client: ssl.SSLSocket) -> None:
    with suppress(OSError):
        while socket.socket.recv(client, 65_536):
            pass
