"""What storage answers, sense or nonsense, over HTTP: read with bounded time and memory."""

import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import boto3
import pytest
from botocore.config import Config

from tests.support.fakes.http_storage import HttpStorage, StorageResponse, running_http_storage
from tests.support.fakes.socket_server import drip_body, running_socket_server
from worker.aws import objects, storage_calls
from worker.aws.storage_calls import MAX_ANSWER_BYTES, bound_responses
from worker.core.policy.error_responses import UNREADABLE, ErrorResponse
from worker.errors import Transient

STARTED = b"<InitiateMultipartUploadResult><UploadId>u-1</UploadId></InitiateMultipartUploadResult>"
BOMB = (
    b'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "'
    + b"x" * 50_000
    + b'"><!ENTITY c "'
    + b"&b;" * 200
    + b'"><!ENTITY d "'
    + b"&c;" * 200
    + b'">]><Error><Code>&d;</Code></Error>'
)
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


def start(client: Any) -> objects.CreatedUpload | ErrorResponse:
    return objects.start_upload(client, "reports", "acme/a", {})


def respond(storage: HttpStorage, body: bytes, status: int = 200) -> None:
    storage.respond = lambda _: StorageResponse(status, body=body)


def test_an_upload_is_started_and_is_the_only_one(storage: HttpStorage, client: Any) -> None:
    respond(storage, STARTED)
    assert start(client) == objects.CreatedUpload("u-1", is_only=True)


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


@pytest.mark.parametrize("upload_id", ["x" * 1_025, "\u009b31m", "caf\u00e9", "a b"])
def test_an_upload_id_that_no_storage_would_make_is_unreadable(
    storage: HttpStorage, client: Any, upload_id: str
) -> None:
    respond(storage, STARTED.replace(b"u-1", upload_id.encode()))
    assert start(client) == UNREADABLE


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_costs_one_request(storage: HttpStorage, client: Any, status: int) -> None:
    headers = {"location": "https://storage.example/"}
    storage.respond = lambda _: StorageResponse(status, headers)
    with suppress(Transient):
        start(client)
    assert len(storage.received) == 1


def test_elements_within_a_code_are_unreadable(storage: HttpStorage, client: Any) -> None:
    respond(storage, b"<Error><Code><A>NoSuchBucket</A></Code><Message/></Error>", 400)
    assert start(client) == UNREADABLE


def test_a_refusal_by_s3_has_its_code_and_message(storage: HttpStorage, client: Any) -> None:
    respond(storage, b"<Error><Code>NoSuchBucket</Code><Message>It is gone</Message></Error>", 404)
    assert start(client) == ErrorResponse(404, "NoSuchBucket", "It is gone")


def test_an_error_within_a_success_is_read_as_an_error(storage: HttpStorage, client: Any) -> None:
    respond(storage, b"<Error><Code>AccessDenied</Code></Error>")
    answer = start(client)
    assert isinstance(answer, ErrorResponse)
    assert answer.code == "AccessDenied"


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
    answer = objects.start_upload(client, "a bucket/with?everything", "acme/a", {})
    assert isinstance(answer, ErrorResponse)
    assert answer.words == "ParamValidationError"


def test_an_upload_started_at_a_second_attempt_may_not_be_the_only_one(
    storage: HttpStorage,
) -> None:
    answers = [StorageResponse(503), StorageResponse(body=STARTED)]
    storage.respond = lambda _: answers.pop(0)
    client = make_client(storage.url, attempts=2)
    assert start(client) == objects.CreatedUpload("u-1", is_only=False)
    client.close()
