"""Reads the events that S3 sends through EventBridge.

Source: AWS, "EventBridge event message structure" (ev-events.html). Keys are not encoded.
"""

from collections.abc import Mapping
from typing import Any

from worker.core.uses.notifications import fields
from worker.core.uses.notifications.fields import IgnoredRecord, MalformedRecord
from worker.core.uses.reports import Event, UseReport

_EVENTS: Mapping[str, Event] = {
    "PutObject": "stored",
    "POST Object": "stored",
    "CompleteMultipartUpload": "completed",
}
_MARKER = "Delete Marker Created"


def is_event(body: Mapping[str, Any]) -> bool:
    """Return true if a message is an event of EventBridge."""
    return isinstance(body.get("detail-type"), str) and isinstance(body.get("detail"), dict)


def parse_event(body: Mapping[str, Any]) -> UseReport | IgnoredRecord:
    """Return the use that an event tells of, or why it tells of none. Raises MalformedRecord."""
    if body.get("source") != "aws.s3":
        raise MalformedRecord("source")
    detail = fields.nested(body, "detail")
    event: Event | None = None
    match body["detail-type"]:
        case "Object Created":
            reason = fields.required_text(detail, "reason")
            if reason == "CopyObject":
                return "copy"
            event = _EVENTS.get(reason)
        case "Object Deleted":
            event = "deleted"
    if event is None:
        return "other_event"
    stored = fields.nested(detail, "object")
    is_marker = detail.get("deletion-type") == _MARKER
    return UseReport(
        event=event,
        source="event",
        bucket=fields.required_text(fields.nested(detail, "bucket"), "name"),
        object_key=fields.object_key(stored, is_encoded=False),
        grant_id=None,
        occurred_at=fields.moment(body, "time"),
        size=None if event == "deleted" else fields.size(stored),
        etag=None if event == "deleted" else fields.etag(stored, "etag"),
        sequencer=fields.sequencer(stored),
        version=None if is_marker else fields.version(stored, "version-id"),
        request_id=fields.text(detail, "request-id"),
        remote_address=fields.text(detail, "source-ip-address", 64),
    )
