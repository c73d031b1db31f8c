"""What storage answers, sense or nonsense, over HTTP: read with bounded time and memory."""

import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from threading import Event
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.support.fakes.http_storage import HttpStorage, StorageResponse, running_http_storage
from tests.support.fakes.socket_server import drip_body, running_socket_server
from worker.aws import object_calls, storage_calls
from worker.aws.s3_clients import S3Clients
from worker.aws.storage_calls import MAX_ANSWER_BYTES, bound_responses
from worker.core.storage_errors import UNREADABLE, ErrorResponse
from worker.core.tenant_config import Bucket
from worker.errors import Transient

STARTED = b"<InitiateMultipartUploadResult><UploadId>u-1</UploadId></InitiateMultipartUploadResult>"
BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "%s"><!ENTITY c "%s"><!ENTITY d "%s">]>'
    b"<Error><Code>&d;</Code></Error>"
) % (b"x" * 50_000, b"&b;" * 200, b"&c;" * 200)
NONSENSE = {
    "html": b"<html><body><h1>Welcome</h1><br></body></html>",
    "empty": b"",
    "text": b"it works!",
    "bytes": bytes(range(256)),
    "json": b'{"UploadId": "u-1"}',
    "another result": b"<ListBucketResult/>",
    "no id": b"<InitiateMultipartUploadResult/>",
    "an empty id": b"<InitiateMultipartUploadResult><UploadId/></InitiateMultipartUploadResult>",
    "deep": b"<a>" * 200_000,
    "entities": BOMB,
    "huge": b"<InitiateMultipartUploadResult>" + b" " * 3 * MAX_ANSWER_BYTES,
}


@pytest.fixture
def storage() -> Iterator[HttpStorage]:
    with running_http_storage() as storage:
        yield storage


def make_client(url: str, attempts: int = 1) -> Any:
    return boto3.client(
        "s3",
        region_name="us-east-1",
        endpoint_url=url,
        aws_access_key_id="AKIDEXAMPLE",
        aws_secret_access_key="not-a-secret",
        config=Config(retries={"total_max_attempts": attempts}, s3={"addressing_style": "path"}),
    )


@pytest.fixture
def client(storage: HttpStorage) -> Iterator[Any]:
    client = make_client(storage.url)
    bound_responses(client)
    yield client
    client.close()


def start(client: Any) -> object_calls.CreatedUpload | ErrorResponse:
    return object_calls.start_upload(client, "reports", "acme/a", {})


def respond(storage: HttpStorage, body: bytes, status: int = 200) -> None:
    storage.respond = lambda _: StorageResponse(status, body=body)


NO_BUCKET = b"<Error><Code>NoSuchBucket</Code><Message>It is gone</Message></Error>"
NESTED = b"<Error><Code><A>NoSuchBucket</A></Code><Message/></Error>"


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (200, STARTED, object_calls.CreatedUpload("u-1", is_only=True)),
        (404, NO_BUCKET, ErrorResponse(404, "NoSuchBucket", "It is gone")),
        (400, NESTED, UNREADABLE),
        (200, b"<Error><Code>AccessDenied</Code></Error>", ErrorResponse(500, "AccessDenied")),
        *(
            (200, STARTED.replace(b"u-1", name.encode()), UNREADABLE)
            for name in ("x" * 1_025, "\u009b31m", "caf\u00e9", "a b")
        ),
    ],
)
def test_an_answer_is_read_or_unreadable(
    storage: HttpStorage, client: Any, status: int, body: bytes, expected: Any
) -> None:
    respond(storage, body, status)
    assert start(client) == expected


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_success_that_is_not_s3s_is_unreadable(
    storage: HttpStorage, client: Any, body: bytes
) -> None:
    respond(storage, body)
    assert start(client) == UNREADABLE


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_a_refusal_that_is_not_s3s_is_known_by_its_status(
    storage: HttpStorage, client: Any, body: bytes
) -> None:
    respond(storage, body, 403)
    answer = start(client)
    assert isinstance(answer, ErrorResponse)
    assert answer.status == 403
    assert not answer.is_transient
    assert len(answer.words) < 200


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_a_failure_that_is_not_s3s_is_transient(
    storage: HttpStorage, client: Any, body: bytes
) -> None:
    respond(storage, body, 503)
    with pytest.raises(Transient, match="storage cannot do it now"):
        start(client)


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_costs_one_request(storage: HttpStorage, client: Any, status: int) -> None:
    headers = {"location": "https://storage.example/"}
    storage.respond = lambda _: StorageResponse(status, headers)
    with suppress(Transient):
        start(client)
    assert len(storage.received) == 1


def test_a_huge_answer_takes_little_memory(storage: HttpStorage, client: Any) -> None:
    respond(storage, b"<Error>" + b"x" * 20 * MAX_ANSWER_BYTES, 403)
    start(client)
    tracemalloc.start()
    try:
        start(client)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * MAX_ANSWER_BYTES


def test_an_answer_that_never_ends_takes_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_calls, "MAX_BODY_SECONDS", 0.1)
    with running_socket_server(drip_body) as url:
        client = make_client(url)
        bound_responses(client)
        assert start(client) == ErrorResponse(403, "403", "Forbidden")
        client.close()


def test_no_answer_is_transient_and_names_no_address(storage: HttpStorage, client: Any) -> None:
    storage.server_close()
    with pytest.raises(Transient, match="storage does not answer") as raised:
        start(client)
    assert "127.0.0.1" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_parameter_that_boto3_refuses_is_final_and_not_quoted(client: Any) -> None:
    answer = object_calls.start_upload(client, "a bucket/with?everything", "acme/a", {})
    assert isinstance(answer, ErrorResponse)
    assert answer.words == "ParamValidationError"


def test_an_upload_started_at_a_second_attempt_may_not_be_the_only_one(
    storage: HttpStorage,
) -> None:
    answers = [StorageResponse(503), StorageResponse(body=STARTED)]
    storage.respond = lambda _: answers.pop(0)
    client = make_client(storage.url, attempts=2)
    assert start(client) == object_calls.CreatedUpload("u-1", is_only=False)
    client.close()


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
    monkeypatch.setattr(storage_calls, "MAX_ANSWER_SECONDS", 0.2)


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
def endless(request: pytest.FixtureRequest) -> Iterator[Any]:
    with running_socket_server(repeat(*ENDLESS[request.param])) as url:
        client = S3Clients(url).client(BUCKET, "acme", ("acme/",), datetime.now(UTC))
        yield client
        client.close()


def test_an_answer_that_never_ends_is_none(endless: Any) -> None:
    begin = time.monotonic()
    with pytest.raises(Transient, match="storage does not answer"):
        object_calls.start_upload(endless, "reports", "acme/a", {})
    assert time.monotonic() - begin < 8


@pytest.mark.parametrize("begin", [b"HTTP/1.1 100 Continue\r\n", b"HTTP/1.1 100 Continue\r\nx: y"])
def test_a_continuation_without_an_end_is_no_answer(begin: bytes) -> None:
    file = object_calls.ObjectFile(BytesIO(b"x"), b"\0" * 32, "text/plain", may_replace=True)
    with running_socket_server(repeat(begin, b"")) as url:
        client = S3Clients(url).client(BUCKET, "acme", ("acme/",), datetime.now(UTC))
        with pytest.raises(Transient, match="storage does not answer"):
            object_calls.put_object(client, BUCKET, "acme/a", file, lambda: None)
        client.close()
