"""The grants of an upload's parts, and what becomes of an upload whose grant has ended."""

from typing import Any

import pytest

from models import MultipartUpload
from tests.integration.issue.uploads.conftest import KEYS, UploadService
from tests.support.builders.messages import grant_message, split_chunks
from worker.issue.multipart_aborts import abort_expired_uploads
from worker.ledger.reservations import REMAINING

PART_SIZE = 5 * 1024**2
UNKNOWN_BATCH = "01932000-0000-7000-8000-000000000000"


def start_message() -> dict[str, Any]:
    """Return a request for an upload of three parts."""
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": 3 * PART_SIZE}
    request = grant_message(KEYS[:1], grant=terms | {"part_size": PART_SIZE})
    return request | {"items": [{"key": KEYS[0], "size": 2 * PART_SIZE + 7}]}


def parts_message(grant: dict[str, Any], number: int) -> dict[str, Any]:
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 600, "of": grant["id"]}
    return grant_message(grant=terms, items=[{"key": grant["key"], "part": number}])


@pytest.fixture
def grant(service: UploadService) -> dict[str, Any]:
    grant: dict[str, Any] = service.issue(start_message())["items"][0]
    return grant


def test_a_message_delivered_again_does_not_call_storage(service: UploadService) -> None:
    request = start_message()
    first = service.issue(request)
    calls = service.storage.count("POST")
    assert service.issue(request) == first
    assert service.refusal_code(request | {"reason": "another"}) == "batch_conflict"
    assert service.storage.count("POST") == calls
    assert len(service.rows(MultipartUpload)) == 1


def test_an_upload_of_a_cancelled_batch_is_not_started(service: UploadService) -> None:
    request = start_message()
    service.cancel(request["batch"])
    assert service.refusal_code(request) == "batch_closed"
    assert service.storage.count("POST") == 0


def test_parts_requested_again_are_the_same(service: UploadService, grant: dict[str, Any]) -> None:
    request = parts_message(grant, 2)
    first = service.issue(request)
    assert (first["items"][0]["part"], grant["multipart"]["part_count"]) == (2, 3)
    assert service.issue(request) == first


def test_a_batch_of_parts_is_free_and_accepts_further_chunks(
    service: UploadService, grant: dict[str, Any]
) -> None:
    parts = parts_message(grant, 1)
    batch = parts | {"items": parts["items"] + parts_message(grant, 2)["items"], "total": 2}
    upload, *_ = service.reserved()
    for chunk, remaining in zip(split_chunks(batch, 1), ([(REMAINING, 1, 0)], []), strict=True):
        assert "url" in service.issue(chunk)["items"][0]
        assert service.reserved() == [upload, *remaining]
    assert (service.charged("live"), service.charged("day")) == (1, 1)


@pytest.mark.parametrize(
    "grant_id", [".", "x", "x.0", "x.00", f"{UNKNOWN_BATCH}.0", f"{UNKNOWN_BATCH}.99999999999"]
)
def test_parts_of_an_unknown_upload_are_refused(service: UploadService, grant_id: str) -> None:
    request = parts_message({"id": grant_id, "key": "acme/a"}, 1)
    assert service.refusal_code(request) == "upload_unknown"


def test_a_part_beyond_the_upload_is_refused(service: UploadService, grant: dict[str, Any]) -> None:
    item = service.issue(parts_message(grant, 4))["items"][0]
    assert (item["code"], item["limit"]) == ("part_invalid", 3)


def test_a_part_with_another_key_is_refused(service: UploadService, grant: dict[str, Any]) -> None:
    item = service.issue(parts_message(grant | {"key": "acme/other"}, 1))["items"][0]
    assert (item["code"], item["field"]) == ("part_invalid", "items[0].key")


def test_a_part_does_not_outlive_its_upload_and_says_that_storage_limits_it(
    service: UploadService, grant: dict[str, Any]
) -> None:
    service.clock.forward(minutes=9)
    part = service.issue(parts_message(grant, 1))["items"][0]
    assert (part["expires_at"], part["limited_by"]) == (grant["expires_at"], "provider")


def test_an_upload_of_an_expired_grant_is_aborted(
    service: UploadService, grant: dict[str, Any]
) -> None:
    assert abort_expired_uploads(service.context)["ended"] == 0
    service.clock.forward(minutes=10)
    assert abort_expired_uploads(service.context)["ended"] == 1
    assert service.unfinished() == 0
    assert abort_expired_uploads(service.context)["ended"] == 0
    assert service.refusal_code(parts_message(grant, 1)) == "upload_unknown"
