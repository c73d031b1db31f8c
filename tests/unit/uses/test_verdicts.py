from datetime import timedelta
from typing import Any

import pytest

from tests.support.uses.reports import deleted, downloaded, stored
from tests.support.uses.used_grants import BATCH, ISSUED, KEY
from tests.support.uses.used_grants import used_grant as grant
from worker.shared.reported_values import CLOCK_SKEW
from worker.uses.use_reports import UsedGrant, UseReport
from worker.uses.use_rules import Judgement, judge, use_fingerprint

ID = f"{BATCH}.0"
LATEST = ISSUED + timedelta(seconds=300) + CLOCK_SKEW
SECOND = timedelta(seconds=1)
PUT = grant("put", detail={"size": 11})
PUT_OF_NOTHING = grant("put", detail={"size": 0}, terms={"max_size": 20})
UNTYPED = grant(terms={"max_size": 20, "content_type": "application/octet-stream"})
VIDEOS = grant(terms={"max_size": 20, "content_type": "video/*"})
CHECKED = grant(detail={"checksum": {"algorithm": "crc32", "value": "AAAAAA=="}})


def report(**changes: Any) -> UseReport:
    return stored(ID, KEY, ISSUED, **changes)


def typed(content_type: str) -> UseReport:
    return report(content_type=content_type)


AS_GRANTED = {
    "an object within the limits": (report(), grant()),
    "a put of exactly its size": (report(size=11), PUT),
    "a put of nothing, if nothing was granted": (report(size=0), PUT_OF_NOTHING),
    "a type in upper case": (typed("IMAGE/png"), grant()),
    "a list of types of the family": (typed("video/mp4, video/webm"), VIDEOS),
    "a quoted list of codecs": (typed('video/mp4; codecs="avc1.42E01E, mp4a.40.2"'), VIDEOS),
    "a type that storage chose": (typed("text/plain; charset=utf-8"), UNTYPED),
    "the checksum": (report(checksum="crc32:AAAAAA=="), CHECKED),
    "a checksum of another algorithm": (report(checksum="sha256:BBBB"), CHECKED),
    "no checksum": (report(), CHECKED),
    "the last second": (stored(ID, KEY, LATEST), grant()),
    "a deletion, at any time": (deleted(KEY, ISSUED + timedelta(days=30)), grant()),
}
MISMATCHED = {
    "too small": (report(size=4), grant(), "size: 4 bytes, granted 5 to 20"),
    "too large": (report(size=21), grant(), "size: 21 bytes, granted 5 to 20"),
    "another size of a put": (report(), PUT, "size: 10 bytes, granted 11"),
    "another type": (typed("text/html"), grant(), "content_type: text/html, granted image/*"),
    "another checksum": (
        report(checksum="crc32:BBBBBB=="),
        CHECKED,
        "checksum: another one than granted",
    ),
}


@pytest.mark.parametrize(("use", "of"), AS_GRANTED.values(), ids=AS_GRANTED)
def test_a_use_within_the_limits_is_as_granted(use: UseReport, of: UsedGrant) -> None:
    assert judge(use, of) == Judgement("as_granted")


@pytest.mark.parametrize(("use", "of", "problem"), MISMATCHED.values(), ids=MISMATCHED)
def test_an_object_outside_of_a_limit_is_mismatched_and_the_limit_is_named(
    use: UseReport, of: UsedGrant, problem: str
) -> None:
    assert judge(use, of) == Judgement("mismatched", problem)


@pytest.mark.parametrize(
    "content_type",
    [
        "video/mp4,text/html",  # stored by RGW 18.2.7, from a form for video/*
        "video/mp4;codecs=avc1, TEXT/HTML;charset=utf-8",
        ",text/html",
    ],
)
def test_each_type_of_a_list_has_to_be_of_the_granted_family(content_type: str) -> None:
    judgement = judge(typed(content_type), VIDEOS)
    assert isinstance(judgement, Judgement)
    assert judgement.verdict == "mismatched"


def test_an_object_that_is_stored_after_the_end_is_late() -> None:
    assert judge(stored(ID, KEY, LATEST + SECOND), grant()) == Judgement("late")


@pytest.mark.parametrize(
    ("use", "reason"),
    [
        pytest.param(stored(ID, "acme/copy.png", ISSUED), "other_key", id="a copy"),
        pytest.param(report(bucket="other"), "other_key", id="a copy in another bucket"),
        pytest.param(stored(ID, KEY, ISSUED - CLOCK_SKEW - SECOND), "before_issue", id="older"),
    ],
)
def test_an_object_that_the_grant_did_not_store_is_no_use_of_it(
    use: UseReport, reason: str
) -> None:
    assert judge(use, grant()) == reason


@pytest.mark.parametrize(
    ("kind", "event"),
    [("download", "stored"), ("put", "completed"), ("multipart", "stored"), ("put", "downloaded")],
)
def test_an_event_that_the_kind_cannot_cause_is_no_use(kind: str, event: str) -> None:
    assert judge(report(event=event), grant(kind)) == "other_kind"


def test_what_two_sources_tell_of_one_object_is_one_use() -> None:
    probe = report()
    event = probe._replace(source="event", occurred_at=ISSUED + timedelta(seconds=3), sequencer="7")
    assert use_fingerprint(probe, grant()) == use_fingerprint(event, grant())


def test_another_object_of_the_same_grant_is_another_use() -> None:
    objects = report(), report(etag="other"), report(version="2")
    assert len({use_fingerprint(each, grant()) for each in objects}) == 3


def test_each_request_of_a_download_is_a_use() -> None:
    first = downloaded(ID, KEY, ISSUED)
    second = first._replace(request_id="R2")
    of_download = grant("download")
    assert use_fingerprint(first, of_download) != use_fingerprint(second, of_download)


def test_equal_ids_of_two_tenants_are_two_uses() -> None:
    globex = grant(tenant="globex")
    assert use_fingerprint(report(), grant()) != use_fingerprint(report(), globex)
