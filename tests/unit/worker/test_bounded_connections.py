"""Answers of storage that never end: each call ends all the same."""

import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from io import BytesIO
from threading import Event
from typing import Any

import pytest

from tests.support.fakes.socket_server import running_socket_server
from worker.aws import bounded_connections, objects
from worker.aws.clients import S3Clients
from worker.core.tenants.config import Bucket
from worker.errors import Transient

BUCKET = Bucket("reports", "reports", "us-east-1", "path")
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"
ENDLESS = {
    "status": (b"HTTP/1.1 200 ", b"x"),
    "header": (OK + b"x-more: ", b"x"),
    "informational answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "size of a chunk": (CHUNKED, b"0"),
    "trailers": (CHUNKED + b"0\r\n", b"x: y\r\n"),
}


@pytest.fixture(autouse=True)
def _credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setattr(bounded_connections, "MAX_ANSWER_SECONDS", 0.2)


def repeat(begin: bytes, piece: bytes) -> Callable[[socket.socket, Event], None]:
    def answer(connection: socket.socket, stopped: Event) -> None:
        try:
            connection.recv(65_536)
            connection.sendall(begin)
            while not stopped.wait(0.01):
                connection.sendall(piece)
        except OSError:
            pass

    return answer


@pytest.fixture(params=ENDLESS)
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    with running_socket_server(repeat(*ENDLESS[request.param])) as url:
        client = S3Clients(url).client(BUCKET, "acme", ("acme/",), datetime.now(UTC))
        yield client
        client.close()


def test_an_answer_that_never_ends_is_none(client: Any) -> None:
    begin = time.monotonic()
    with pytest.raises(Transient, match="storage does not answer"):
        objects.start_upload(client, "reports", "acme/a", {})
    assert time.monotonic() - begin < 8


@pytest.mark.parametrize("begin", [b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 100 Continue\r\nx: y"])
def test_a_continuation_without_an_end_is_no_answer(begin: bytes) -> None:
    def answer(connection: socket.socket, _: Event) -> None:
        connection.recv(65_536)
        connection.sendall(begin)

    file = objects.ObjectFile(BytesIO(b"x"), b"\0" * 32, "text/plain", may_replace=True)
    with running_socket_server(answer) as url:
        client = S3Clients(url).client(BUCKET, "acme", ("acme/",), datetime.now(UTC))
        with pytest.raises(Transient, match="storage does not answer"):
            objects.put_object(client, BUCKET, "acme/a", file, lambda: None)
        client.close()
