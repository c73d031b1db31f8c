"""What storage answers, sense or nonsense, over HTTP: read with bounded time and memory."""

import time
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.support.fakes.http_storage import HttpStorage, StorageResponse, running_http_storage
from tests.support.fakes.socket_server import repeat, running_socket_server
from worker.aws import object_calls, storage_calls
from worker.aws.s3_clients import S3Clients
from worker.aws.storage_calls import MAX_ANSWER_BYTES, bound_responses
from worker.errors import Transient
from worker.rules.storage_errors import UNREADABLE, ErrorResponse
from worker.rules.tenant_config import Bucket
from worker.shared import object_files

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


class Storage:
    """A storage that gives one answer, and a client that calls it."""

    def __init__(self, server: HttpStorage, attempts: int = 1) -> None:
        self.server = server
        self.client = boto3.client(
            "s3",
            region_name="us-east-1",
            endpoint_url=server.url,
            config=Config(retries={"total_max_attempts": attempts}),
        )

    def respond(self, body: bytes, status: int = 200) -> None:
        self.server.respond = lambda _: StorageResponse(status, body=body)

    def start(self, bucket: str = "reports") -> object_calls.CreatedUpload | ErrorResponse:
        return object_calls.start_upload(self.client, bucket, "acme/a", {})


@pytest.fixture
def storage() -> Iterator[Storage]:
    with running_http_storage() as server:
        storage = Storage(server)
        bound_responses(storage.client)
        yield storage
        storage.client.close()


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
    storage: Storage, status: int, body: bytes, expected: Any
) -> None:
    storage.respond(body, status)
    assert storage.start() == expected


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_success_that_is_not_s3s_is_unreadable(storage: Storage, body: bytes) -> None:
    storage.respond(body)
    assert storage.start() == UNREADABLE


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_a_refusal_that_is_not_s3s_is_known_by_its_status(storage: Storage, body: bytes) -> None:
    storage.respond(body, 403)
    answer = storage.start()
    assert isinstance(answer, ErrorResponse)
    assert answer.status == 403
    assert not answer.is_transient
    assert len(answer.words) < 200


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_a_failure_that_is_not_s3s_is_transient(storage: Storage, body: bytes) -> None:
    storage.respond(body, 503)
    with pytest.raises(Transient, match="storage cannot do it now"):
        storage.start()


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_costs_one_request(storage: Storage, status: int) -> None:
    headers = {"location": "https://storage.example/"}
    storage.server.respond = lambda _: StorageResponse(status, headers)
    with suppress(Transient):
        storage.start()
    assert len(storage.server.received) == 1


def test_a_huge_answer_takes_little_memory(storage: Storage) -> None:
    storage.respond(b"<Error>" + b"x" * 20 * MAX_ANSWER_BYTES, 403)
    storage.start()
    tracemalloc.start()
    try:
        storage.start()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * MAX_ANSWER_BYTES


def test_an_answer_that_never_ends_takes_little_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_calls, "MAX_BODY_SECONDS", 0.1)
    head = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 1000000\r\n\r\n"
    with running_socket_server(repeat(head, b" ")) as url:
        client = S3Clients(url).client(BUCKET, "acme", ("acme/",), datetime.now(UTC))
        answer = object_calls.start_upload(client, "reports", "acme/a", {})
        client.close()
    assert answer == ErrorResponse(403, "403", "Forbidden")


def test_no_answer_is_transient_and_names_no_address(storage: Storage) -> None:
    storage.server.server_close()
    with pytest.raises(Transient, match="storage does not answer") as raised:
        storage.start()
    assert "127.0.0.1" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_parameter_that_boto3_refuses_is_final_and_not_quoted(storage: Storage) -> None:
    answer = storage.start("a bucket/with?everything")
    assert isinstance(answer, ErrorResponse)
    assert answer.words == "ParamValidationError"


def test_an_upload_started_at_a_second_attempt_may_not_be_the_only_one(storage: Storage) -> None:
    answers = [StorageResponse(503), StorageResponse(body=STARTED)]
    storage.server.respond = lambda _: answers.pop(0)
    again = Storage(storage.server, attempts=2)
    assert again.start() == object_calls.CreatedUpload("u-1", is_only=False)
    again.client.close()


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
    file = object_files.ObjectFile(BytesIO(b"x"), b"\0" * 32, "text/plain", may_replace=True)
    with running_socket_server(repeat(begin, b"")) as url:
        client = S3Clients(url).client(BUCKET, "acme", ("acme/",), datetime.now(UTC))
        with pytest.raises(Transient, match="storage does not answer"):
            object_files.put_object(client, BUCKET, "acme/a", file, lambda: None)
        client.close()
