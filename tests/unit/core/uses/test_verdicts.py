from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.uses.reports import BUCKET, deleted, downloaded, stored
from worker.core.uses.used_grant import UsedGrant
from worker.core.uses.verdicts import CLOCK_SKEW, Judgement, judge, use_fingerprint

ISSUED = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
BATCH = "0199a000-0000-7000-8000-000000000001"
ID, KEY = f"{BATCH}.0", "acme/a.png"
FORM_TERMS = {"min_size": 5, "max_size": 20, "content_type": "image/*"}


def grant(kind: str = "upload", **changes: Any) -> UsedGrant:
    value = UsedGrant(
        tenant="acme",
        batch_number=1,
        batch_id=BATCH,
        chunk_number=0,
        item_number=0,
        kind=kind,
        bucket="demo",
        real_buckets=frozenset({BUCKET}),
        object_key=KEY,
        issued_at=ISSUED,
        expires_in=300,
        terms=FORM_TERMS,
        detail={},
    )
    return value._replace(**changes)


def test_an_object_within_the_limits_is_as_granted() -> None:
    assert judge(stored(ID, KEY, ISSUED), grant()) == Judgement("as_granted")


@pytest.mark.parametrize("size", [4, 21])
def test_an_object_of_another_size_is_mismatched_and_the_limit_is_named(size: int) -> None:
    judgement = judge(stored(ID, KEY, ISSUED, size=size), grant())
    assert judgement == Judgement("mismatched", f"size: {size} bytes, granted 5 to 20")


def test_a_put_allows_exactly_its_size() -> None:
    put = grant("put", detail={"size": 11})
    assert judge(stored(ID, KEY, ISSUED), put) == Judgement(
        "mismatched", "size: 10 bytes, granted 11"
    )
    assert judge(stored(ID, KEY, ISSUED, size=11), put) == Judgement("as_granted")


def test_a_put_of_nothing_is_as_granted_if_nothing_was_granted() -> None:
    put = grant("put", detail={"size": 0}, terms={"max_size": 20})
    assert judge(stored(ID, KEY, ISSUED, size=0), put) == Judgement("as_granted")


def test_an_object_of_another_type_is_mismatched() -> None:
    judgement = judge(stored(ID, KEY, ISSUED, content_type="text/html"), grant())
    assert judgement == Judgement("mismatched", "content_type: text/html, granted image/*")
    assert judge(stored(ID, KEY, ISSUED, content_type="IMAGE/png"), grant()) == Judgement(
        "as_granted"
    )


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        ("video/mp4,text/html", "mismatched"),  # stored by RGW 18.2.7, from a form for video/*
        ("video/mp4;codecs=avc1, TEXT/HTML;charset=utf-8", "mismatched"),
        (",text/html", "mismatched"),
        ("video/mp4, video/webm", "as_granted"),
        ("video/webm;codecs=vp8,opus", "as_granted"),
        ('video/mp4; codecs="avc1.42E01E, mp4a.40.2"', "as_granted"),
    ],
)
def test_each_type_of_a_list_has_to_be_of_the_granted_family(found: str, verdict: str) -> None:
    videos = grant(terms=FORM_TERMS | {"content_type": "video/*"})
    judgement = judge(stored(ID, KEY, ISSUED, content_type=found), videos)
    assert isinstance(judgement, Judgement)
    assert judgement.verdict == verdict


def test_storage_may_choose_the_type_of_an_object_that_was_granted_without_one() -> None:
    untyped = grant(terms=FORM_TERMS | {"content_type": "application/octet-stream"})
    judgement = judge(stored(ID, KEY, ISSUED, content_type="text/plain; charset=utf-8"), untyped)
    assert judgement == Judgement("as_granted")


def test_another_checksum_is_mismatched_and_one_of_another_algorithm_tells_nothing() -> None:
    checked = grant(detail={"checksum": {"algorithm": "crc32", "value": "AAAAAA=="}})
    other = judge(stored(ID, KEY, ISSUED, checksum="crc32:BBBBBB=="), checked)
    assert other == Judgement("mismatched", "checksum: another one than granted")
    for checksum in ("crc32:AAAAAA==", "sha256:BBBB", None):
        report = stored(ID, KEY, ISSUED, checksum=checksum)
        assert judge(report, checked) == Judgement("as_granted")


def test_an_object_that_is_stored_after_the_end_is_late() -> None:
    end = ISSUED + timedelta(seconds=300) + CLOCK_SKEW
    assert judge(stored(ID, KEY, end), grant()) == Judgement("as_granted")
    late = judge(stored(ID, KEY, end + timedelta(seconds=1)), grant())
    assert late == Judgement("late")


def test_a_copy_with_the_metadata_of_a_grant_is_no_use_of_it() -> None:
    assert judge(stored(ID, "acme/copy.png", ISSUED), grant()) == "other_key"
    assert judge(stored(ID, KEY, ISSUED, bucket="other"), grant()) == "other_key"


def test_an_object_from_before_the_grant_is_no_use_of_it() -> None:
    report = stored(ID, KEY, ISSUED - CLOCK_SKEW - timedelta(seconds=1))
    assert judge(report, grant()) == "before_issue"


@pytest.mark.parametrize(
    ("kind", "event"),
    [("download", "stored"), ("put", "completed"), ("multipart", "stored"), ("put", "downloaded")],
)
def test_an_event_that_the_kind_cannot_cause_is_no_use(kind: str, event: str) -> None:
    assert judge(stored(ID, KEY, ISSUED, event=event), grant(kind)) == "other_kind"


def test_a_deletion_is_never_late() -> None:
    assert judge(deleted(KEY, ISSUED + timedelta(days=30)), grant()) == Judgement("as_granted")


def test_what_two_sources_tell_of_one_object_is_one_use() -> None:
    probe = stored(ID, KEY, ISSUED)
    event = probe._replace(source="event", occurred_at=ISSUED + timedelta(seconds=3), sequencer="7")
    assert use_fingerprint(probe, grant()) == use_fingerprint(event, grant())


def test_another_object_of_the_same_grant_is_another_use() -> None:
    first = stored(ID, KEY, ISSUED)
    prints = {
        use_fingerprint(report, grant())
        for report in (first, first._replace(etag="other"), first._replace(version="2"))
    }
    assert len(prints) == 3


def test_each_request_of_a_download_is_a_use() -> None:
    first = downloaded(ID, KEY, ISSUED)
    second = first._replace(request_id="R2")
    of_download = grant("download")
    assert use_fingerprint(first, of_download) != use_fingerprint(second, of_download)


def test_equal_ids_of_two_tenants_are_two_uses() -> None:
    report = stored(ID, KEY, ISSUED)
    assert use_fingerprint(report, grant()) != use_fingerprint(report, grant(tenant="globex"))
