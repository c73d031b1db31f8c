"""The HTTP side of `metrics --listen`, before a silent, slow or foreign client."""

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from tests.support.servers.waiting import wait_until
from worker.doctor.metrics_server import MetricsServer, check_host

Connect = Callable[[], socket.socket]


def app(_: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [])
    return [b"metrics"]


@contextmanager
def running(names: Iterable[str] = ()) -> Iterator[tuple[MetricsServer, Connect]]:
    """Run a server; yield it, and a function that connects to it."""
    with MetricsServer("127.0.0.1", 0, check_host(app, names)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield (
                server,
                lambda: socket.create_connection(("127.0.0.1", server.server_port), timeout=30),
            )
        finally:
            server.shutdown()
            thread.join()


def ask(connection: socket.socket, host: str | None) -> bytes:
    header = "" if host is None else f"Host: {host}\r\n"
    connection.sendall(f"GET /metrics HTTP/1.0\r\n{header}\r\n".encode())
    with connection.makefile("rb") as stream:
        return stream.read()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:9109", "[::1]:9109", "10.0.0.7", "localhost", "LOCALHOST:9109", "prometheus.lan"],
)
def test_an_address_localhost_and_a_name_that_was_given_are_accepted(host: str) -> None:
    with running(["Prometheus.lan"]) as (_, connect), connect() as connection:
        assert ask(connection, host).endswith(b"metrics")


@pytest.mark.parametrize(
    "host",
    [None, "", "evil.example", "127.0.0.1.evil.example", "localhost.evil.example:9109", "[::1",
     "localhost, evil.example", "localhost\r\nHost: evil.example", "2130706433"],
)  # fmt: skip
def test_any_other_host_gets_no_content(host: str | None) -> None:
    with running() as (_, connect), connect() as connection:
        head, _, body = ask(connection, host).partition(b"\r\n\r\n")
        assert (head.split()[1], body) == (b"421", b"")


def test_connections_beyond_the_limit_are_closed_and_use_no_thread() -> None:
    with running() as (server, connect), ExitStack() as stack:
        before = threading.active_count()
        for _ in range(server.max_connections):
            stack.enter_context(connect())
        wait_until(lambda: threading.active_count() == before + server.max_connections)
        for _ in range(20):
            assert stack.enter_context(connect()).recv(1) == b""
        assert threading.active_count() == before + server.max_connections


def test_a_client_that_sends_a_byte_at_a_time_is_ended_and_others_are_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(MetricsServer, "max_connections", 1)
    monkeypatch.setattr(MetricsServer, "max_seconds", 0.2)
    with running() as (_, connect), connect() as slow:
        slow.settimeout(0.02)

        def is_ended() -> bool:
            try:
                slow.send(b"G")
                return slow.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        def is_served() -> bool:
            with connect() as connection:
                return ask(connection, "localhost").endswith(b"metrics")

        wait_until(is_ended)
        wait_until(is_served)
