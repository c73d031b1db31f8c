"""Reads event notifications: what storage sends to a queue, itself or through SNS or EventBridge.

Anyone who can write to the queue chooses the fields. Sources: AWS, "Event message structure"
(notification-content-structure.html) and "EventBridge event message structure" (ev-events.html);
MinIO, cmd/event-notification.go; Ceph, "Bucket Notifications" (radosgw/notifications) and
src/rgw/rgw_pubsub.cc. MinIO writes the metadata of an object as a table, and Ceph as a list of
pairs. AWS sends none. Ceph and EventBridge do not encode keys. Ceph's sequencer is the memory of a
time, whose bytes do not sort; its event time has microseconds.
"""

from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import quote_plus, unquote_plus

from valetkey.signing.signing_context import GRANT_ID_HEADER
from valetkey.wire.strict_json import parse_json
from worker.shared.reported_values import MAX_SIZE, is_storable
from worker.uses.use_reports import Event, UseReport

IgnoredRecord = Literal["malformed", "too_large", "test_event", "other_event", "copy"]
"""The reasons why a message, or a record in it, reports no use.

malformed: it is not a notification, or a field of it is not one. too_large: SQS carries no message
of this size. test_event: S3 sends one when notifications are configured. other_event: it stores and
deletes nothing. copy: a grant cannot copy.
"""

_MAX_KEY_BYTES = 1_024
_NO_VERSION = ("", "null")  # of an object that was stored without versioning
_is_hexadecimal = frozenset("0123456789ABCDEF").issuperset


class _MalformedRecord(Exception):
    """A field that is missing, or not what it should be. The text names it."""


def _read_nested(values: object, name: str) -> Mapping[str, Any]:
    found = values.get(name) if isinstance(values, dict) else None
    return found if isinstance(found, dict) else {}


def _read_text(values: Mapping[str, Any], name: str, max_length: int = 1_024) -> str | None:
    """Return the text in a field, None if there is none that the database can store."""
    value = values.get(name)
    if not isinstance(value, str) or not value or len(value) > max_length or not is_storable(value):
        return None
    return value


def _read_required_text(values: Mapping[str, Any], name: str) -> str:
    value = _read_text(values, name)
    if value is None:
        raise _MalformedRecord(name)
    return value


def _read_size(values: Mapping[str, Any]) -> int | None:
    value = values.get("size")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:  # noqa: PLR2004 - digits of a size
        value = int(value)  # in the documentation of Ceph it is a text
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SIZE:
        raise _MalformedRecord("size")
    return value


def _read_time(values: Mapping[str, Any], name: str) -> datetime:
    try:
        value = datetime.fromisoformat(_read_required_text(values, name))
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise _MalformedRecord(name) from None


def _read_object_key(values: Mapping[str, Any], *, is_encoded: bool) -> str:
    value = values.get("key")
    if not isinstance(value, str) or not is_storable(value):
        raise _MalformedRecord("key")
    try:
        key = unquote_plus(value, errors="strict") if is_encoded else value
    except UnicodeDecodeError:
        raise _MalformedRecord("key") from None
    if not 0 < len(key.encode()) <= _MAX_KEY_BYTES or "\0" in key:
        raise _MalformedRecord("key")
    return key


def read_sequencer(values: Mapping[str, Any]) -> str:
    """Return the sequencer in a form in which the greater text is the later event of its key.

    AWS: "right pad the shorter value with zeros, and then do a lexicographical comparison"
    (notification-content-structure.html). Texts without the zeros at their end compare as such. The
    zeros at the front are those that EventBridge leaves out.
    """
    value = (_read_text(values, "sequencer", 64) or "").upper()
    return value.strip("0") if _is_hexadecimal(value) else ""


_S3_SUFFIX, _CEPH = ":s3", "ceph:s3"
_EVENTS: Mapping[str, Event] = {
    "ObjectCreated:Put": "stored",
    "ObjectCreated:Post": "stored",
    "ObjectCreated:CompleteMultipartUpload": "completed",
    "ObjectRemoved:Delete": "deleted",
    "ObjectRemoved:DeleteMarkerCreated": "deleted",
    "LifecycleExpiration:Delete": "deleted",
    "LifecycleExpiration:DeleteMarkerCreated": "deleted",
    "ObjectLifecycle:Expiration:Current": "deleted",
}
_COPY = "ObjectCreated:Copy"
_MARKER = "DeleteMarkerCreated"


def _parse_record(record: object) -> UseReport | IgnoredRecord:
    """Return the use that a record reports, or why it reports none. Raises _MalformedRecord."""
    if not isinstance(record, dict):
        raise _MalformedRecord("Records")
    source = _read_required_text(record, "eventSource")
    if not source.endswith(_S3_SUFFIX):
        raise _MalformedRecord("eventSource")
    name = _read_required_text(record, "eventName").removeprefix("s3:")
    if name in _EVENTS:
        return _report(record, name, is_ceph=source == _CEPH)
    return "copy" if name == _COPY else "other_event"


def _report(record: Mapping[str, Any], name: str, *, is_ceph: bool) -> UseReport:
    """Return the use that a record of one of these events reports.

    A new marker hides the newest object of its key, whatever its version, so that the deletion has
    no version.
    """
    s3 = _read_nested(record, "s3")
    stored = _read_nested(s3, "object")
    version = None if name.endswith(_MARKER) else _read_text(stored, "versionId")
    report = UseReport(
        event=_EVENTS[name],
        source="event",
        bucket=_read_required_text(_read_nested(s3, "bucket"), "name"),
        object_key=_read_object_key(stored, is_encoded=not is_ceph),
        grant_id=None,
        occurred_at=_read_time(record, "eventTime"),
        sequencer="" if is_ceph else read_sequencer(stored),
        version=None if version in _NO_VERSION else version,
        request_id=_read_text(_read_nested(record, "responseElements"), "x-amz-request-id"),
        remote_address=_read_text(_read_nested(record, "requestParameters"), "sourceIPAddress", 64)
        or _read_text(_read_nested(record, "source"), "host", 64),
        user_agent=_read_text(_read_nested(record, "source"), "userAgent"),
    )
    if report.event == "deleted":
        return report
    etag = _read_text(stored, "eTag", 128)
    return report._replace(
        grant_id=_grant_id(stored),
        size=_read_size(stored),
        etag=etag and etag.strip('"'),  # as a probe reads it
        content_type=_read_text(stored, "contentType", 255),
    )


def _grant_id(stored: Mapping[str, Any]) -> str | None:
    """Return the id of the grant in the metadata of an object: "" if it has none.

    None if the record has no field for metadata.
    """
    table, pairs = stored.get("userMetadata"), stored.get("metadata")
    if isinstance(table, dict):
        named = list(table.items())
    elif isinstance(pairs, list):
        named = [(pair.get("key"), pair.get("val")) for pair in pairs if isinstance(pair, dict)]
    else:
        return None
    ids = (value for name, value in named if str(name).lower() == GRANT_ID_HEADER)
    value = next(ids, "")
    return value if isinstance(value, str) else ""


_EVENTBRIDGE_NAMES = {
    "PutObject": "ObjectCreated:Put",
    "POST Object": "ObjectCreated:Post",
    "CompleteMultipartUpload": "ObjectCreated:CompleteMultipartUpload",
    "CopyObject": _COPY,
}
_EVENTBRIDGE_MARKER = "Delete Marker Created"


def _eventbridge_record(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event of EventBridge as a record of S3. Raises _MalformedRecord."""
    if body.get("source") != "aws.s3":
        raise _MalformedRecord("source")
    detail, name = body["detail"], "other"
    match body["detail-type"]:
        case "Object Created":
            name = _EVENTBRIDGE_NAMES.get(_read_required_text(detail, "reason"), name)
        case "Object Deleted":
            is_marker = detail.get("deletion-type") == _EVENTBRIDGE_MARKER
            name = f"ObjectRemoved:{_MARKER if is_marker else 'Delete'}"
    stored = _read_nested(detail, "object")
    key = stored.get("key")
    return {
        "eventSource": "aws:s3",
        "eventName": name,
        "eventTime": body.get("time"),
        "requestParameters": {"sourceIPAddress": detail.get("source-ip-address")},
        "responseElements": {"x-amz-request-id": detail.get("request-id")},
        "s3": {
            "bucket": detail.get("bucket"),
            "object": {
                "key": quote_plus(key) if isinstance(key, str) else key,
                "size": stored.get("size"),
                "eTag": stored.get("etag"),
                "versionId": stored.get("version-id"),
                "sequencer": stored.get("sequencer"),
            },
        },
    }


MAX_BODY_LENGTH = 1_048_576
"""The characters of the longest message that SQS carries (AWS: quotas-messages.html)."""

MAX_RECORDS = 100
"""The largest number of records in a message. S3, EventBridge, MinIO and Ceph send one."""

_TEST_EVENT = "s3:TestEvent"


class ParsedBody(NamedTuple):
    """The reports of uses in a message, and counts of its other records by reason."""

    reports: tuple[UseReport, ...]
    ignored: Counter[IgnoredRecord]


def parse_body(body: str) -> ParsedBody:
    """Read the body of a message. Never raises: whatever is not a notification is counted."""
    if len(body) > MAX_BODY_LENGTH:
        return ParsedBody((), Counter(["too_large"]))
    try:
        value = parse_json(body)
        is_wrapped = isinstance(value, dict) and value.get("Type") == "Notification"
        if is_wrapped and isinstance(value.get("Message"), str):
            value = parse_json(value["Message"])  # by SNS (AWS: sns-message-and-json-formats.html)
        return _parse(value)
    except (ValueError, _MalformedRecord):
        return ParsedBody((), Counter(["malformed"]))


def _parse(value: Any) -> ParsedBody:
    if not isinstance(value, dict):
        raise _MalformedRecord
    if value.get("Event") == _TEST_EVENT:
        return ParsedBody((), Counter(["test_event"]))
    records = value.get("Records")
    if isinstance(value.get("detail-type"), str) and isinstance(value.get("detail"), dict):
        records = [_eventbridge_record(value)]
    if not isinstance(records, list) or len(records) > MAX_RECORDS:
        raise _MalformedRecord("Records")
    reports: list[UseReport] = []
    ignored: Counter[IgnoredRecord] = Counter()
    for record in records:
        try:
            result = _parse_record(record)
        except _MalformedRecord:
            result = "malformed"
        if isinstance(result, UseReport):
            reports.append(result)
        else:
            ignored[result] += 1
    return ParsedBody(tuple(reports), ignored)
