"""Prints or serves metrics for Prometheus."""

import re
from contextlib import suppress
from datetime import timedelta
from ipaddress import IPv6Address
from wsgiref.simple_server import WSGIRequestHandler

import click
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from valetkey.units import parse_duration
from worker.cli.command_options import signals_as_interrupt
from worker.doctor.service_metrics import DATABASE, ServiceCollector, Window
from worker.settings import Settings

_ADDRESS = re.compile(r"(?P<host>[^:\[\]\s/]+|\[[0-9A-Fa-f:.]+\]):(?P<port>[0-9]{1,5})")
_MAX_PORT = 65_535
_LONGEST_WINDOW = timedelta(days=7)
_SOCKET_TIMEOUT = 5.0
"""The time in seconds that a client may send or take nothing."""


def _parse_address(
    _context: click.Context, _option: click.Parameter, text: str | None
) -> tuple[str, int] | None:
    if text is None:
        return None
    match = _ADDRESS.fullmatch(text)
    if match is None or int(match["port"]) > _MAX_PORT or not _is_host(match["host"]):
        raise click.BadParameter(
            f"write HOST:PORT, like 127.0.0.1:9109 or [::1]:9109, not {text!r}"
        )
    return match["host"].strip("[]"), int(match["port"])


def _is_host(text: str) -> bool:
    """Return whether sockets accept a name: they raise more than OSError for one that is none."""
    try:
        if text.startswith("["):
            IPv6Address(text.strip("[]"))
        else:
            text.encode("idna")
    except ValueError:
        return False
    return True


def _parse_window(_context: click.Context, _option: click.Parameter, text: str) -> Window:
    try:
        length = timedelta(seconds=parse_duration(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    if not timedelta(0) < length <= _LONGEST_WINDOW:
        raise click.BadParameter("it is longer than 0 and at most 7d")
    label = "".join(text.split())
    return Window(f"{label}s" if label.isdecimal() else label, length)


@click.command()
@click.option(
    "--listen",
    "address",
    metavar="HOST:PORT",
    callback=_parse_address,
    help="Serve the metrics by HTTP at /metrics, until SIGTERM or Ctrl-C. Port 0 takes a free one.",
)
@click.option(
    "--window",
    metavar="DURATION",
    default="24h",
    show_default=True,
    callback=_parse_window,
    help="Count recent grants, refusals, uses and rejections in this time before now.",
)
def metrics(*, address: tuple[str, int] | None, window: Window) -> None:
    """Print metrics of the service for Prometheus, or serve them.

    They are read from the database, the broker and the result store at each scrape: states and uses
    of recent grants, refusals, quotas, queues, and work that is overdue. Labels have names of
    tenants, buckets and endpoints, but no object keys, ids or links. The server has neither TLS nor
    a password: let it listen where only Prometheus can connect.

    Without --listen, exits with 1 if the database cannot be used. A server goes on, and says so in
    valetkey_database_up. docs/operating.md lists the metrics, with rules for alerts.

    \b
    Examples:
      python -m worker metrics
      python -m worker metrics --listen 127.0.0.1:9109
    """
    Settings()  # invalid ones end the command here, and no scrape
    registry = CollectorRegistry()
    registry.register(ServiceCollector(window, _Problems(ends=address is None)))
    if address is None:
        click.echo(generate_latest(registry), nl=False)
    else:
        _serve(*address, registry)


class _Problems:
    """Writes to stderr that a service cannot be used, once as long as the reason stays the same."""

    def __init__(self, *, ends: bool) -> None:
        self._ends = ends
        self._last: dict[str, str] = {}

    def __call__(self, service: str, problem: click.ClickException | None) -> None:
        if problem is not None and self._ends and service == DATABASE:
            raise problem
        text = "" if problem is None else problem.format_message()
        if text != self._last.get(service, ""):
            click.echo(text or f"The {service.replace('_', ' ')} can be used again.", err=True)
        self._last[service] = text


class _Handler(WSGIRequestHandler):
    """Serves a connection: it ends one that is silent, and writes nothing of any to stderr."""

    timeout = _SOCKET_TIMEOUT

    def handle(self) -> None:
        """Respond to the request of a connection, unless that is lost or silent."""
        with suppress(OSError):
            super().handle()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


def _serve(host: str, port: int, registry: CollectorRegistry) -> None:
    shown_host = f"[{host}]" if ":" in host else host
    try:
        with signals_as_interrupt():
            try:
                server, thread = start_http_server(port, host, registry)
            except OSError as error:
                text = f"cannot listen on {shown_host}:{port}: {error.strerror}"
                hint = "Next: give --listen another host or port"
                raise click.ClickException(f"{text}\n{hint}") from None
            with server:
                server.RequestHandlerClass = _Handler  # the library's waits without end
                url = f"http://{shown_host}:{server.server_port}/metrics"
                click.echo(f"Serving {url} until Ctrl-C.", err=True)
                try:
                    thread.join()
                finally:
                    server.shutdown()
    except KeyboardInterrupt:
        click.echo("Stopped.", err=True)
