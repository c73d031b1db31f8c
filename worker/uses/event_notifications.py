"""Reads event notifications: what storage sends to a queue, itself or through SNS or EventBridge.

Anyone who can write to the queue chooses the fields. Sources: AWS, "Event message structure"
(notification-content-structure.html) and "EventBridge event message structure" (ev-events.html);
MinIO, cmd/event-notification.go; Ceph, "Bucket Notifications" (radosgw/notifications) and
src/rgw/rgw_pubsub.cc. MinIO writes the metadata of an object as a table, and Ceph as a list of
pairs. AWS sends none. Ceph and EventBridge do not encode keys. Ceph's sequencer is the memory of a
time, whose bytes do not sort; its event time has microseconds.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote_plus

from worker.core.issued_grants import MAX_SIZE, Event, UseReport, is_storable
from worker.core.signing_context import GRANT_ID_HEADER

IgnoredRecord = Literal["malformed", "too_large", "test_event", "other_event", "copy"]
"""The reasons for which a message, or a record in it, tells of no use.

malformed: it is not a notification, or a field of it is not one. too_large: SQS carries no message
of this size. test_event: S3 sends one when notifications are configured. other_event: it stores and
deletes nothing. copy: a grant cannot copy.
"""

_MAX_KEY_BYTES = 1_024
_NO_VERSION = ("", "null")  # of an object that was stored without versioning
_is_hexadecimal = frozenset("0123456789ABCDEF").issuperset


class MalformedRecord(Exception):
    """A field that is missing, or not what it should be. The text names it."""


def read_nested(values: object, name: str) -> Mapping[str, Any]:
    """Return the object in a field, an empty one if there is none."""
    found = values.get(name) if isinstance(values, dict) else None
    return found if isinstance(found, dict) else {}


def read_text(values: Mapping[str, Any], name: str, max_length: int = 1_024) -> str | None:
    """Return the text in a field, None if there is none that the database can store."""
    value = values.get(name)
    if not isinstance(value, str) or not value or len(value) > max_length or not is_storable(value):
        return None
    return value


def read_required_text(values: Mapping[str, Any], name: str) -> str:
    """Return the text in a field. Raises MalformedRecord."""
    value = read_text(values, name)
    if value is None:
        raise MalformedRecord(name)
    return value


def read_size(values: Mapping[str, Any]) -> int | None:
    """Return the size in bytes, None if there is none. Raises MalformedRecord."""
    value = values.get("size")
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:  # noqa: PLR2004 - digits of a size
        value = int(value)  # in the documentation of Ceph it is a text
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SIZE:
        raise MalformedRecord("size")
    return value


def read_time(values: Mapping[str, Any], name: str) -> datetime:
    """Return the time in a field, in UTC. Raises MalformedRecord."""
    try:
        value = datetime.fromisoformat(read_required_text(values, name))
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise MalformedRecord(name) from None


def read_object_key(values: Mapping[str, Any], *, is_encoded: bool) -> str:
    """Return the key of an object, decoded if it is URL-encoded. Raises MalformedRecord."""
    value = values.get("key")
    if not isinstance(value, str) or not is_storable(value):
        raise MalformedRecord("key")
    try:
        key = unquote_plus(value, errors="strict") if is_encoded else value
    except UnicodeDecodeError:
        raise MalformedRecord("key") from None
    if not 0 < len(key.encode()) <= _MAX_KEY_BYTES or "\0" in key:
        raise MalformedRecord("key")
    return key


def read_version(values: Mapping[str, Any], name: str) -> str | None:
    """Return the version of an object, None if its bucket has none."""
    value = read_text(values, name)
    return None if value in _NO_VERSION else value


def read_etag(values: Mapping[str, Any], name: str) -> str | None:
    """Return the ETag without quotes, as a probe reads it."""
    value = read_text(values, name, 128)
    return value and value.strip('"')


def read_sequencer(values: Mapping[str, Any]) -> str:
    """Return the sequencer in a form in which the greater text is the later event of its key.

    AWS: "right pad the shorter value with zeros, and then do a lexicographical comparison"
    (notification-content-structure.html). Texts without the zeros at their end compare as such. The
    zeros at the front are those that EventBridge leaves out.
    """
    value = (read_text(values, "sequencer", 64) or "").upper()
    return value.strip("0") if _is_hexadecimal(value) else ""


_CEPH = "ceph:s3"
_SOURCE_SUFFIX = ":s3"
_S3_EVENTS: Mapping[str, Event] = {
    "ObjectCreated:Put": "stored",
    "ObjectCreated:Post": "stored",
    "ObjectCreated:CompleteMultipartUpload": "completed",
    "ObjectRemoved:Delete": "deleted",
    "ObjectRemoved:DeleteMarkerCreated": "deleted",
    "LifecycleExpiration:Delete": "deleted",
    "LifecycleExpiration:DeleteMarkerCreated": "deleted",
    "ObjectLifecycle:Expiration:Current": "deleted",
}
_S3_MARKER = "DeleteMarkerCreated"


def parse_s3_record(record: object) -> UseReport | IgnoredRecord:
    """Return the use that a record tells of, or why it tells of none.

    A new marker hides the newest object of its key, whatever its version, so that the deletion has
    no version. Raises MalformedRecord.
    """
    if not isinstance(record, dict):
        raise MalformedRecord("Records")
    source = read_required_text(record, "eventSource")
    if not source.endswith(_SOURCE_SUFFIX):
        raise MalformedRecord("eventSource")
    name = read_required_text(record, "eventName").removeprefix("s3:")
    if name == "ObjectCreated:Copy":
        return "copy"
    event = _S3_EVENTS.get(name)
    if event is None:
        return "other_event"
    return _report(record, event, is_marker=name.endswith(_S3_MARKER), is_ceph=source == _CEPH)


def _report(
    record: Mapping[str, Any], event: Event, *, is_marker: bool, is_ceph: bool
) -> UseReport:
    s3 = read_nested(record, "s3")
    stored = read_nested(s3, "object")
    is_stored = event != "deleted"
    return UseReport(
        event=event,
        source="event",
        bucket=read_required_text(read_nested(s3, "bucket"), "name"),
        object_key=read_object_key(stored, is_encoded=not is_ceph),
        grant_id=_grant_id(stored) if is_stored else None,
        occurred_at=read_time(record, "eventTime"),
        size=read_size(stored) if is_stored else None,
        etag=read_etag(stored, "eTag") if is_stored else None,
        content_type=read_text(stored, "contentType", 255) if is_stored else None,
        sequencer="" if is_ceph else read_sequencer(stored),
        version=None if is_marker else read_version(stored, "versionId"),
        request_id=read_text(read_nested(record, "responseElements"), "x-amz-request-id"),
        remote_address=_remote_address(record),
        user_agent=read_text(read_nested(record, "source"), "userAgent"),
    )


def _remote_address(record: Mapping[str, Any]) -> str | None:
    parameters, source = read_nested(record, "requestParameters"), read_nested(record, "source")
    return read_text(parameters, "sourceIPAddress", 64) or read_text(source, "host", 64)


def _grant_id(stored: Mapping[str, Any]) -> str | None:
    """Return the id of the grant in the metadata of an object: "" if it has none.

    None if the record does not tell of metadata.
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


_EVENTBRIDGE_EVENTS: Mapping[str, Event] = {
    "PutObject": "stored",
    "POST Object": "stored",
    "CompleteMultipartUpload": "completed",
}
_EVENTBRIDGE_MARKER = "Delete Marker Created"


def is_eventbridge_event(body: Mapping[str, Any]) -> bool:
    """Return true if a message is an event of EventBridge."""
    return isinstance(body.get("detail-type"), str) and isinstance(body.get("detail"), dict)


def parse_eventbridge_event(body: Mapping[str, Any]) -> UseReport | IgnoredRecord:
    """Return the use that an event tells of, or why it tells of none. Raises MalformedRecord."""
    if body.get("source") != "aws.s3":
        raise MalformedRecord("source")
    detail = read_nested(body, "detail")
    event: Event | None = None
    match body["detail-type"]:
        case "Object Created":
            reason = read_required_text(detail, "reason")
            if reason == "CopyObject":
                return "copy"
            event = _EVENTBRIDGE_EVENTS.get(reason)
        case "Object Deleted":
            event = "deleted"
    if event is None:
        return "other_event"
    stored = read_nested(detail, "object")
    is_marker = detail.get("deletion-type") == _EVENTBRIDGE_MARKER
    return UseReport(
        event=event,
        source="event",
        bucket=read_required_text(read_nested(detail, "bucket"), "name"),
        object_key=read_object_key(stored, is_encoded=False),
        grant_id=None,
        occurred_at=read_time(body, "time"),
        size=None if event == "deleted" else read_size(stored),
        etag=None if event == "deleted" else read_etag(stored, "etag"),
        sequencer=read_sequencer(stored),
        version=None if is_marker else read_version(stored, "version-id"),
        request_id=read_text(detail, "request-id"),
        remote_address=read_text(detail, "source-ip-address", 64),
    )


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
        return _parse(_unwrap(json.loads(body)))
    except (ValueError, RecursionError, MalformedRecord):
        return ParsedBody((), Counter(["malformed"]))


def _unwrap(value: Any) -> Any:
    """Return what SNS delivers, if it does. SNS: sns-message-and-json-formats.html."""
    is_wrapped = isinstance(value, dict) and value.get("Type") == "Notification"
    if is_wrapped and isinstance(value.get("Message"), str):
        return json.loads(value["Message"])
    return value


def _parse(value: Any) -> ParsedBody:
    if not isinstance(value, dict):
        raise MalformedRecord
    if value.get("Event") == _TEST_EVENT:
        return ParsedBody((), Counter(["test_event"]))
    if is_eventbridge_event(value):
        return _collect([value], parse_eventbridge_event)
    records = value.get("Records")
    if not isinstance(records, list) or len(records) > MAX_RECORDS:
        raise MalformedRecord("Records")
    return _collect(records, parse_s3_record)


def _collect(records: list[Any], parse: Callable[[Any], UseReport | IgnoredRecord]) -> ParsedBody:
    reports: list[UseReport] = []
    ignored: Counter[IgnoredRecord] = Counter()
    for record in records:
        try:
            result = parse(record)
        except MalformedRecord:
            result = "malformed"
        if isinstance(result, UseReport):
            reports.append(result)
        else:
            ignored[result] += 1
    return ParsedBody(tuple(reports), ignored)
