"""One HEAD for an object: the request that is sent, and what is made of any answer."""

import socket
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from threading import Event
from typing import Any

import pytest
from botocore.utils import parse_timestamp

from tests.integration.uses.probes.conftest import BUCKET
from tests.support.fakes.http_storage import HttpStorage, StorageResponse, running_http_storage
from tests.support.fakes.socket_server import drip, running_socket_server, send_garbage
from worker.aws import storage_calls
from worker.aws.s3_clients import PATIENT, CallLimits, S3Clients
from worker.dev.embedded_servers import Storage
from worker.errors import StorageSilent, Transient
from worker.rules.tenant_config import Bucket
from worker.shared.object_files import find_grant_id
from worker.shared.stored_files import FileReader, StorageRefuses, StoredFile
from worker.uses.storage_probes import QUICK

pytestmark = pytest.mark.usefixtures("real_storage")  # its credentials sign the requests
HEADERS = {
    "content-length": "10",
    "last-modified": "Tue, 24 Nov 2026 12:31:07 GMT",
    "etag": '"0123"',
}
NONSENSE = {
    "no time": {"last-modified": ""},
    "a time that is none": {"last-modified": "yesterday"},
    "a huge time": {"last-modified": "9" * 400},
    "the last year": {"last-modified": "Fri, 31 Dec 9999 23:59:59 -1200"},
    "a time in the future": {
        "last-modified": format_datetime(datetime.now(UTC) + timedelta(days=2))
    },
    "a negative size": {"content-length": "-4000000"},
    "a huge size": {"content-length": str(10**30)},
    "a size of many digits": {"content-length": "9" * 5_000},
    "a NUL": {"etag": '"01\x0023"'},
    "a long type": {"content-type": "x" * 2_000},
    "a long version": {"x-amz-version-id": "x" * 2_000},
}


def reader(url: str, limits: CallLimits = PATIENT, **fields: Any) -> FileReader:
    bucket = Bucket("demo", BUCKET, "us-east-1", "path", url, **fields)
    client = S3Clients().client(bucket, "acme", ("*",), datetime.now(UTC), limits=limits)
    return FileReader(client, bucket)


@pytest.fixture
def server() -> Iterator[HttpStorage]:
    """A storage that answers whatever the test says, and keeps the requests."""
    with running_http_storage() as server:
        yield server


def test_an_object_is_told_as_boto3_tells_it(real_storage: Storage, owner: Any) -> None:
    key, meta = "k ä/ö ☃", {"grant-id": "0199a000-0000-7000-8000-000000000001.7"}
    owner.put_object(Bucket=BUCKET, Key=key, Body=b"content", Metadata=meta)
    told = owner.head_object(Bucket=BUCKET, Key=key, ChecksumMode="ENABLED")
    assert reader(real_storage.endpoint).find(key) == StoredFile(
        grant_id=told["Metadata"]["grant-id"],
        size=told["ContentLength"],
        etag=told["ETag"].strip('"'),
        version=None,
        checksum=f"crc32:{told['ChecksumCRC32']}",
        content_type=told["ContentType"],
        modified_at=told["LastModified"],
    )


@pytest.mark.parametrize(("status", "found"), [(404, "absent"), (403, "hidden")])
def test_an_object_that_storage_does_not_show_is_absent_or_hidden(
    server: HttpStorage, status: int, found: str
) -> None:
    server.respond = lambda _: StorageResponse(status)
    assert reader(server.url).find("a") == found


def test_the_owner_of_the_bucket_and_its_checksums_are_asked_for(server: HttpStorage) -> None:
    server.respond = lambda _: StorageResponse(404)
    reader(server.url, owner="111122223333").find("a")
    headers = server.received[0].headers
    assert headers["x-amz-expected-bucket-owner"] == "111122223333"
    assert headers["x-amz-checksum-mode"] == "ENABLED"
    assert "x-amz-expected-bucket-owner" in headers["authorization"]  # it is signed


@pytest.mark.parametrize(
    ("version", "checksum", "told"),
    [
        pytest.param("v1", "AAAAAA==", ("v1", "crc32:AAAAAA=="), id="of the whole object"),
        pytest.param("null", "AAAAAA==-2", (None, None), id="of parts, in no version"),
    ],
)
def test_a_version_and_a_checksum_are_told_if_they_are_of_the_whole_object(
    server: HttpStorage, version: str, checksum: str, told: tuple[str | None, str | None]
) -> None:
    headers = {"x-amz-version-id": version, "x-amz-checksum-crc32": checksum}
    server.respond = lambda _: StorageResponse(200, HEADERS | headers | {"content-type": "a/b"})
    assert reader(server.url).find("a") == StoredFile(
        grant_id=None,
        size=10,
        etag="0123",
        version=told[0],
        checksum=told[1],
        content_type="a/b",
        modified_at=parse_timestamp(HEADERS["last-modified"]),
    )


def test_the_grant_of_an_object_is_told_whatever_the_case_of_its_header(
    server: HttpStorage,
) -> None:
    server.respond = lambda _: StorageResponse(200, HEADERS | {"X-Amz-Meta-Grant-Id": "a.7"})
    files = reader(server.url)
    found = files.find("a")
    assert isinstance(found, StoredFile)
    assert (found.grant_id, find_grant_id(files._client, BUCKET, "a")) == ("a.7", "a.7")


@pytest.mark.parametrize("name", NONSENSE)
def test_nonsense_about_an_object_is_refused(server: HttpStorage, name: str) -> None:
    headers = HEADERS | NONSENSE[name]
    server.respond = lambda _: StorageResponse(200, headers)
    with pytest.raises(StorageRefuses, match="invalid values"):
        reader(server.url).find("a")


def test_an_answer_without_a_size_is_refused() -> None:
    head = f"HTTP/1.1 200 OK\r\nlast-modified: {HEADERS['last-modified']}\r\n\r\n"
    answer = once_of(head.encode())
    refused = pytest.raises(StorageRefuses, match="invalid values")
    with running_socket_server(answer) as url, refused:
        reader(url).find("a")


@pytest.mark.parametrize(("status", "refuses"), [(301, True), (400, True), (503, False)])
def test_errors_that_pass_are_told_from_those_of_an_object(
    server: HttpStorage, status: int, *, refuses: bool
) -> None:
    server.respond = lambda _: StorageResponse(status)
    with pytest.raises(Transient) as error:
        reader(server.url).find("a")
    assert isinstance(error.value, StorageRefuses) == refuses


@pytest.mark.parametrize("limits", [PATIENT, QUICK])
def test_a_connection_that_was_closed_is_opened_again(limits: CallLimits) -> None:
    missing = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"
    with running_socket_server(once_of(b"", missing)) as url:
        assert reader(url, limits).find("a") == "absent"


@pytest.mark.parametrize("answer", [send_garbage, drip])
def test_storage_that_does_not_answer_as_storage_is_silent(
    answer: Callable[[socket.socket, Event], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_calls, "MAX_ANSWER_SECONDS", 0.1)
    with running_socket_server(answer) as url, pytest.raises(StorageSilent):
        reader(url).find("a")


def once_of(*answers: bytes) -> Callable[[socket.socket, Event], None]:
    """Return what gives each connection one of these answers; the last one to all further ones."""
    remaining = list(answers)

    def answer(connection: socket.socket, _: Event) -> None:
        connection.recv(65_536)
        connection.sendall(remaining.pop(0) if len(remaining) > 1 else remaining[0])

    return answer
