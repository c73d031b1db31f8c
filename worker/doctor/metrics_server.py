"""The HTTP server of `metrics`: few connections at once, each for a limited time."""

import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from ipaddress import ip_address
from socket import SHUT_RDWR, SOCK_STREAM, getaddrinfo, socket
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import click

from worker.shared.command_options import signals_as_interrupt

_SOCKET_TIMEOUT = 5.0
"""The time in seconds that a client may send or take nothing."""


class _Handler(WSGIRequestHandler):
    """Serves a connection: it ends one that is silent, and writes nothing of any to stderr."""

    timeout = _SOCKET_TIMEOUT

    def handle(self) -> None:
        """Respond to the request of a connection, unless that is lost or silent."""
        with suppress(OSError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


class MetricsServer(ThreadingMixIn, WSGIServer):
    """Serves an application on few connections at once, each for a limited time.

    Further connections are closed without a response.
    """

    daemon_threads = True
    max_connections = 8
    max_seconds = 30.0

    def __init__(self, host: str, port: int, app: WSGIApplication) -> None:
        """Listen on a host and a port; 0 takes a free port. Raises OSError."""
        self._opened: dict[socket, float] = {}
        self.address_family, *_, address = getaddrinfo(host, port, type=SOCK_STREAM)[0]
        super().__init__(address[:2], _Handler)  # type: ignore[arg-type]
        self.set_app(app)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own, or close it."""
        if len(self._opened) >= self.max_connections:
            self.shutdown_request(request)
            return
        self._opened[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Close a connection."""
        self._opened.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """End connections that take too long, however little a client sends at a time."""
        too_early = time.monotonic() - self.max_seconds
        for connection, opened_at in self._opened.copy().items():
            if opened_at < too_early:
                with suppress(OSError):
                    connection.shutdown(SHUT_RDWR)


def with_health(app: WSGIApplication) -> WSGIApplication:
    """Answer GET /healthz by itself, without the services that the application asks."""

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if environ["PATH_INFO"] != "/healthz":
            return app(environ, start_response)
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "3")])
        return [b"ok\n"]

    return respond


def check_host(app: WSGIApplication, names: Iterable[str]) -> WSGIApplication:
    """Refuse requests whose Host is neither an IP address, nor localhost, nor one of these names.

    A page in a browser can have a name of its own resolve to this server, but no address.
    """
    known = {"localhost", *(name.lower() for name in names)}

    def respond(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        if _is_known(environ.get("HTTP_HOST", ""), known):
            return app(environ, start_response)
        start_response("421 Misdirected Request", [("Content-Length", "0")])
        return []

    return respond


def _is_known(header: str, names: Collection[str]) -> bool:
    try:
        host = urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return False
    try:
        ip_address(host)
    except ValueError:
        return host in names
    return True


def serve(host: str, port: int, app: WSGIApplication) -> None:
    """Serve an application until Ctrl-C or SIGTERM. Raises click.ClickException."""
    shown_host = f"[{host}]" if ":" in host else host
    try:
        with signals_as_interrupt():
            try:
                server = MetricsServer(host, port, app)
            except OSError as error:
                text = f"cannot listen on {shown_host}:{port}: {error.strerror}"
                hint = "Next: give --listen another host or port"
                raise click.ClickException(f"{text}\n{hint}") from None
            with server:
                url = f"http://{shown_host}:{server.server_port}/metrics"
                click.echo(f"Serving {url} until Ctrl-C.", err=True)
                server.serve_forever()
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
