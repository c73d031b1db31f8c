"""The grants of an upload's parts, and what becomes of an upload whose grant has ended.

An upload's charge pays for one record of each part; repeats record no more than a ceiling.
"""

from typing import Any

import pytest

from models import Grant, Leaf, MultipartUpload, RejectionCount
from tests.integration.issue.uploads.conftest import KEYS, UploadService
from tests.support.builders.messages import (
    grant_message,
    multipart_message,
    parts_message,
    split_chunks,
)
from tests.support.features import needs
from worker.aborts.multipart_aborts import abort_expired_uploads
from worker.ledger import quota_usage
from worker.ledger.reservations import REMAINING

PART_SIZE = 5 * 1024**2
UNKNOWN_BATCH = "01932000-0000-7000-8000-000000000000"
CEILING = 20_000  # bytes, instead of 64 MiB


@pytest.fixture(autouse=True)
def _low_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_usage, "MAX_UNCHARGED_BYTES", CEILING, raising=False)


def start_message() -> dict[str, Any]:
    """Return a request for an upload of three parts."""
    return multipart_message(KEYS[:1], 2 * PART_SIZE + 7, part_size=PART_SIZE)


def parts_of(grant: dict[str, Any], *parts: int) -> dict[str, Any]:
    return parts_message(grant["id"], *parts, key=grant["key"])


def is_granted(service: UploadService, message: dict[str, Any]) -> list[bool]:
    """Tell which items of a message are granted."""
    return ["url" in item for item in service.issue(message)["items"]]


@pytest.fixture
def grant(service: UploadService) -> dict[str, Any]:
    grant: dict[str, Any] = service.issue(start_message())["items"][0]
    return grant


def refuse_many(service: UploadService) -> None:
    """Reach the ceiling."""
    for _ in range(3):
        service.issue(grant_message([f"globex/{n}" for n in range(200)]))


def test_a_message_delivered_again_does_not_call_storage(service: UploadService) -> None:
    request = start_message()
    first = service.issue(request)
    calls = service.storage.count("POST")
    assert service.issue(request) == first
    assert service.refusal_code(request | {"reason": "another"}) == "batch_conflict"
    assert service.storage.count("POST") == calls
    assert len(service.rows(MultipartUpload)) == 1


@needs("cancel")
def test_an_upload_of_a_cancelled_batch_is_not_started(service: UploadService) -> None:
    request = start_message()
    service.cancel(request["batch"])
    assert service.refusal_code(request) == "batch_closed"
    assert service.storage.count("POST") == 0


def test_parts_requested_again_are_the_same(service: UploadService, grant: dict[str, Any]) -> None:
    request = parts_of(grant, 2)
    first = service.issue(request)
    assert (first["items"][0]["part"], grant["multipart"]["part_count"]) == (2, 3)
    assert service.issue(request) == first


def test_a_batch_of_parts_is_free_and_accepts_further_chunks(
    service: UploadService, grant: dict[str, Any]
) -> None:
    upload, *_ = service.reserved()
    chunks = split_chunks(parts_of(grant, 1, 2), 1)
    for chunk, remaining in zip(chunks, ([(REMAINING, 1, 0)], []), strict=True):
        assert is_granted(service, chunk) == [True]
        assert service.reserved() == [upload, *remaining]
    assert (service.charged("live"), service.charged("day")) == (1, 1)


@pytest.mark.parametrize(
    "grant_id", [".", "x", "x.0", "x.00", f"{UNKNOWN_BATCH}.0", f"{UNKNOWN_BATCH}.99999999999"]
)
def test_parts_of_an_unknown_upload_are_refused(service: UploadService, grant_id: str) -> None:
    assert service.refusal_code(parts_message(grant_id, 1)) == "upload_unknown"


@pytest.mark.parametrize(
    ("number", "changes", "field", "limit"),
    [
        pytest.param(4, {}, "items[0].part", 3, id="a part beyond the upload"),
        pytest.param(1, {"key": "acme/other"}, "items[0].key", None, id="a part with another key"),
    ],
)
def test_a_part_that_is_not_of_the_upload_is_refused(
    service: UploadService,
    grant: dict[str, Any],
    number: int,
    changes: dict[str, str],
    field: str,
    limit: int | None,
) -> None:
    item = service.issue(parts_of(grant | changes, number))["items"][0]
    assert (item["code"], item["field"], item.get("limit")) == ("part_invalid", field, limit)


def test_a_part_does_not_outlive_its_upload_and_says_that_storage_limits_it(
    service: UploadService, grant: dict[str, Any]
) -> None:
    service.clock.forward(minutes=9)
    part = service.issue(parts_of(grant, 1))["items"][0]
    assert (part["expires_at"], part["limited_by"]) == (grant["expires_at"], "provider")


def test_an_upload_of_an_expired_grant_is_aborted(
    service: UploadService, grant: dict[str, Any]
) -> None:
    assert abort_expired_uploads(service.context)["ended"] == 0
    service.clock.forward(minutes=10)
    assert abort_expired_uploads(service.context)["ended"] == 1
    assert service.unfinished() == 0
    assert abort_expired_uploads(service.context)["ended"] == 0
    assert service.refusal_code(parts_of(grant, 1)) == "upload_unknown"


def test_repeats_of_a_part_record_no_more_than_the_ceiling_and_nothing_of_another_upload(
    service: UploadService, grant: dict[str, Any]
) -> None:
    other = service.issue(start_message())["items"][0]
    codes = [service.refusal_code(parts_of(grant, *[1] * 50)) for _ in range(60)]
    assert codes[-1] == "quota_exceeded"
    assert len(service.rows(Grant.item_number)) < CEILING // 100 + 100
    assert len(service.rows(Leaf.leaf_number)) < 11
    ((code, count),) = service.rows(RejectionCount.code, RejectionCount.count)
    assert (code, count) == ("not_recorded", codes.count("quota_exceeded"))
    assert is_granted(service, parts_of(other, 1, 2, 3)) == [True] * 3


def test_the_parts_of_an_upload_are_granted_beyond_the_ceiling(
    service: UploadService, grant: dict[str, Any]
) -> None:
    refuse_many(service)
    for parts in ((1, 2), (3,)):
        request = parts_of(grant, *parts)
        outcome = service.issue(request)
        assert ["url" in item for item in outcome["items"]] == [True] * len(parts)
        assert service.issue(request) == outcome
    assert service.refusal_code(parts_of(grant, 3)) == "quota_exceeded"


def test_a_part_is_granted_again_below_the_ceiling(
    service: UploadService, grant: dict[str, Any]
) -> None:
    assert [is_granted(service, parts_of(grant, 2)) for _ in range(5)] == [[True]] * 5


def test_no_upload_is_started_for_a_message_that_would_not_be_recorded(
    service: UploadService,
) -> None:
    refuse_many(service)
    before = service.storage.count("POST")
    request = multipart_message([KEYS[0], "globex/a", "globex/b"])
    assert service.refusal_code(request) == "quota_exceeded"
    assert service.storage.count("POST") == before
