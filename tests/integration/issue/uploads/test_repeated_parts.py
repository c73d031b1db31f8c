"""An upload's charge pays for one record of each part; repeats record no more than a ceiling."""

from typing import Any

import pytest

from models import Grant, Leaf, RejectionCount
from tests.integration.issue.uploads.conftest import KEYS, UploadService
from tests.support.builders.messages import grant_message
from worker.ledger import quota_usage

CEILING = 20_000  # bytes, instead of 64 MiB
PART_SIZE, PARTS = 5 * 1024**2, 3


@pytest.fixture(autouse=True)
def _low_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota_usage, "MAX_UNCHARGED_BYTES", CEILING, raising=False)


def start_upload(service: UploadService) -> dict[str, Any]:
    """Return the grant of a started upload of three parts."""
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": 3 * PART_SIZE}
    request = grant_message(KEYS[:1], grant=terms | {"part_size": PART_SIZE})
    items = [{"key": KEYS[0], "size": PARTS * PART_SIZE}]
    grant: dict[str, Any] = service.issue(request | {"items": items})["items"][0]
    return grant


def parts_message(grant: dict[str, Any], *parts: int) -> dict[str, Any]:
    terms = {"kind": "parts", "bucket": "demo", "expires_in": 600, "of": grant["id"]}
    items = [{"key": grant["key"], "part": part} for part in parts]
    return grant_message(grant=terms, items=items, total=len(items))


def refuse_many(service: UploadService) -> None:
    """Reach the ceiling."""
    for _ in range(3):
        service.issue(grant_message([f"globex/{n}" for n in range(200)]))


def test_repeats_of_a_part_record_no_more_than_the_ceiling(service: UploadService) -> None:
    grant = start_upload(service)
    codes = [service.refusal_code(parts_message(grant, *[1] * 50)) for _ in range(60)]
    assert codes[-1] == "quota_exceeded"
    assert len(service.rows(Grant.item_number)) < CEILING // 100 + 100
    assert len(service.rows(Leaf.leaf_number)) < 10
    ((code, count),) = service.rows(RejectionCount.code, RejectionCount.count)
    assert (code, count) == ("not_recorded", codes.count("quota_exceeded"))


def test_the_parts_of_an_upload_are_granted_beyond_the_ceiling(service: UploadService) -> None:
    grant = start_upload(service)
    refuse_many(service)
    requests = [parts_message(grant, 1, 2), parts_message(grant, 3)]
    for request in requests:
        outcome = service.issue(request)
        assert ["url" in item for item in outcome["items"]] == [True] * len(request["items"])
        assert service.issue(request) == outcome
    assert service.refusal_code(parts_message(grant, 3)) == "quota_exceeded"


def test_a_part_is_granted_again_below_the_ceiling(service: UploadService) -> None:
    grant = start_upload(service)
    for _ in range(5):
        assert "url" in service.issue(parts_message(grant, 2))["items"][0]


def test_parts_do_not_use_up_what_another_upload_may_record(service: UploadService) -> None:
    first, second = start_upload(service), start_upload(service)
    for _ in range(60):
        service.issue(parts_message(first, *[1] * 50))
    outcome = service.issue(parts_message(second, 1, 2, 3))
    assert ["url" in item for item in outcome["items"]] == [True] * 3


def test_no_upload_is_started_for_a_message_that_would_not_be_recorded(
    service: UploadService,
) -> None:
    refuse_many(service)
    terms = {"kind": "multipart", "bucket": "demo", "expires_in": 600, "max_size": 1_000}
    request = grant_message([KEYS[0], "globex/a", "globex/b"], grant=terms)
    request["items"] = [item | {"size": 1} for item in request["items"]]
    before = service.storage.count("POST")
    assert service.refusal_code(request) == "quota_exceeded"
    assert service.storage.count("POST") == before
