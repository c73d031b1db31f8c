import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.uses.notifications import aws_record, body, ceph_record, minio_record
from worker.uses.events.event_notifications import MAX_RECORDS, parse_body, read_sequencer
from worker.uses.use_reports import UseReport

NOW = datetime(2026, 11, 24, 12, 30, 0, 123_000, tzinfo=UTC)
ID, KEY = "0199a000-0000-7000-8000-000000000001.0", "acme/a b+ü.png"
EVENTBRIDGE = {  # AWS: ev-events.html
    "detail-type": "Object Created",
    "source": "aws.s3",
    "time": "2026-11-24T12:30:00Z",
    "detail": {
        "bucket": {"name": "valetkey-demo"},
        "object": {
            "key": KEY,
            "size": 10,
            "etag": "0123456789abcdef",
            "version-id": "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e",
            "sequencer": "617f08299329d189",
        },
        "request-id": "N4N7GDK58NMKJ12R",
        "source-ip-address": "1.2.3.4",
        "reason": "PutObject",
    },
}


def parse_one(record: Any) -> UseReport:
    (report,), ignored = parse_body(body(record))
    assert not ignored
    return report


def ignored(*records: Any) -> dict[str, int]:
    reports, counts = parse_body(body(*records))
    assert not reports
    return {str(reason): count for reason, count in counts.items()}


def eventbridge(detail_type: str = "Object Created", **detail: Any) -> str:
    event = EVENTBRIDGE | {"detail-type": detail_type}
    return json.dumps(event | {"detail": {**EVENTBRIDGE["detail"], **detail}})  # type: ignore[dict-item]


def test_a_record_of_aws_names_the_object_and_not_the_grant() -> None:
    assert parse_one(aws_record(KEY, NOW)) == UseReport(
        event="stored",
        source="event",
        bucket="valetkey-demo",
        object_key=KEY,
        grant_id=None,
        occurred_at=NOW,
        size=10,
        etag="0123456789abcdef",
        sequencer="55AED6DCD90281E5",
        request_id="C3D13FE58DE4C810",
        remote_address="198.51.100.7",
    )


def test_minio_tells_the_content_type_and_the_user_agent() -> None:
    report = parse_one(minio_record(KEY, NOW, ID))
    assert (report.content_type, report.user_agent) == ("image/png", "MinIO (linux; amd64)")


def test_the_sequencer_of_ceph_is_not_used_because_its_bytes_do_not_sort() -> None:
    assert parse_one(ceph_record(KEY, NOW, ID)).sequencer == ""


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("ObjectCreated:Put", "stored"),
        ("s3:ObjectCreated:Post", "stored"),
        ("ObjectCreated:CompleteMultipartUpload", "completed"),
        ("ObjectRemoved:Delete", "deleted"),
        ("ObjectRemoved:DeleteMarkerCreated", "deleted"),
        ("LifecycleExpiration:Delete", "deleted"),
    ],
)
def test_events_that_store_or_delete_are_uses(event: str, expected: str) -> None:
    assert parse_one(aws_record(KEY, NOW, event)).event == expected


def test_a_new_delete_marker_deletes_whatever_version_is_there() -> None:
    marker = aws_record(KEY, NOW, "ObjectRemoved:DeleteMarkerCreated", versionId="M1")
    version = aws_record(KEY, NOW, "ObjectRemoved:Delete", versionId="V1")
    assert [parse_one(marker).version, parse_one(version).version] == [None, "V1"]


@pytest.mark.parametrize("event", ["ObjectRestore:Post", "ObjectTagging:Put", "ObjectCreated:X"])
def test_other_events_are_counted(event: str) -> None:
    assert ignored(aws_record(KEY, NOW, event)) == {"other_event": 1}


def test_a_copy_is_no_use_because_no_grant_allows_one() -> None:
    assert ignored(aws_record(KEY, NOW, "ObjectCreated:Copy")) == {"copy": 1}
    assert parse_body(eventbridge(reason="CopyObject")) == ((), {"copy": 1})


def test_an_event_of_eventbridge_is_read() -> None:
    (report,), _ = parse_body(eventbridge())
    assert (report.event, report.object_key, report.size) == ("stored", KEY, 10)
    assert report.version == "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e"
    assert (report.remote_address, report.request_id) == ("1.2.3.4", "N4N7GDK58NMKJ12R")


@pytest.mark.parametrize(
    ("deletion_type", "version"),
    [
        ("Permanently Deleted", "IYV3p45BT0ac8hjHg1houSdS1a.Mro8e"),
        ("Delete Marker Created", None),
    ],
)
def test_eventbridge_tells_of_deletions(deletion_type: str, version: str | None) -> None:
    (report,), _ = parse_body(
        eventbridge("Object Deleted", reason="DeleteObject", **{"deletion-type": deletion_type})
    )
    assert (report.event, report.version, report.size) == ("deleted", version, None)


def test_what_sns_delivers_is_unwrapped() -> None:
    text = json.dumps({"Type": "Notification", "Message": body(aws_record(KEY, NOW))})
    assert parse_body(text) == parse_body(body(aws_record(KEY, NOW)))


def test_the_test_event_of_s3_is_counted() -> None:
    text = json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"})
    assert parse_body(text) == ((), {"test_event": 1})


def test_a_malformed_record_does_not_hide_the_others_of_its_message() -> None:
    reports, counts = parse_body(body(aws_record(KEY, NOW), {}, aws_record("acme/b", NOW)))
    assert ([report.object_key for report in reports], counts) == (
        [KEY, "acme/b"],
        {"malformed": 1},
    )


@pytest.mark.parametrize(
    "text",
    [
        *("", "nonsense", "[]", "1", "null", "{}", '{"Records": {}}', '{"Records": [1]}'),
        "[" * 100_000,
        '{"Event": "a", "Event": "s3:TestEvent"}',
        '{"Type": "Notification", "Message": "nonsense"}',
        '{"size": ' + "9" * 5_000 + "}",
        '<?xml version="1.0"?>',
        body(aws_record(KEY, NOW) | {"eventSource": "aws:sqs"}),
        body(aws_record(KEY, NOW) | {"eventTime": "yesterday"}),
        body(aws_record(KEY, NOW) | {"eventTime": "0001-01-01T00:00:00+14:00"}),
        body(aws_record(KEY, NOW) | {"eventTime": 1}),
        *(body(aws_record(KEY, NOW, key=key)) for key in ("", "%00", "a%FF", "a" * 1_025, 1)),
        body(aws_record(KEY, NOW, key="a\0b")),
        '{"Records": [{"eventSource": "aws:s3", "eventName": "\\ud800"}]}',
        *(body(aws_record(KEY, NOW, size=size)) for size in (-1, 2**53 + 1, 2**63, 1.5, True, "x")),
    ],
)
def test_what_is_no_notification_is_counted_as_malformed(text: str) -> None:
    assert parse_body(text) == ((), {"malformed": 1})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)
PATHS = st.lists(
    st.sampled_from(["s3", "bucket", "object", "key", "name", "size", "eTag", "userMetadata"]),
    min_size=1,
    max_size=3,
)


@given(JSON, PATHS, st.sampled_from(["eventTime", "eventName", "eventSource", "source", "x"]))
def test_no_body_raises_and_every_field_that_is_told_can_be_stored(
    value: Any, path: list[str], name: str
) -> None:
    record = minio_record(KEY, NOW, ID)
    inner: Any = record
    for step in path[:-1]:
        inner = inner.get(step) if isinstance(inner, dict) else None
    if isinstance(inner, dict):
        inner[path[-1]] = value
    for text in (json.dumps(value), body(record), body(record | {name: value}), body(value)):
        for report in parse_body(text).reports:
            for field in report:
                assert not isinstance(field, str) or "\0" not in field.encode().decode()
                assert not isinstance(field, int) or 0 <= field <= 2**53


@given(st.text(min_size=1, max_size=50).filter(lambda key: "\0" not in key))
def test_every_key_is_decoded_as_storage_encoded_it(key: str) -> None:
    for record in (aws_record(key, NOW), minio_record(key, NOW, ID), ceph_record(key, NOW, ID)):
        assert parse_one(record).object_key == key
    record = aws_record(key, NOW, key=quote_plus(key))
    assert parse_one(record).object_key == key


HEXADECIMAL = st.text("0123456789ABCDEF", max_size=18)


@given(st.sampled_from("123456789ABCDEF"), HEXADECIMAL, HEXADECIMAL)
def test_sequencers_compare_as_aws_documents_it(first: str, one: str, other: str) -> None:
    # AWS: right pad the shorter value with zeros, then compare lexicographically.
    one, other = f"00{first}{one}", f"00{first}{other}"
    padded = one.ljust(64, "0"), other.ljust(64, "0")
    found = read_sequencer({"sequencer": one}), read_sequencer({"sequencer": other.lower()})
    assert (found[0] < found[1], found[0] == found[1]) == (
        padded[0] < padded[1],
        padded[0] == padded[1],
    )


def test_a_message_of_more_records_than_storage_sends_is_malformed() -> None:
    records = [aws_record(KEY, NOW)] * (MAX_RECORDS + 1)
    assert parse_body(body(*records)) == ((), {"malformed": 1})
    assert len(parse_body(body(*records[1:])).reports) == MAX_RECORDS
