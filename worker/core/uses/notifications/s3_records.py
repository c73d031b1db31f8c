"""Reads the records that S3, MinIO and Ceph's gateway send.

Sources: AWS, "Event message structure" (notification-content-structure.html); MinIO,
cmd/event-notification.go; Ceph, "Bucket Notifications" (radosgw/notifications) and
src/rgw/rgw_pubsub.cc. MinIO writes the metadata of an object as a table, and Ceph as a list of
pairs. AWS sends none. Ceph does not encode keys, and its sequencer is the memory of a time, whose
bytes do not sort; its event time has microseconds.
"""

from collections.abc import Mapping
from typing import Any

from worker.core.signing.storage_headers import GRANT_ID_HEADER
from worker.core.uses.notifications import fields
from worker.core.uses.notifications.fields import IgnoredRecord, MalformedRecord
from worker.core.uses.reports import Event, UseReport

_CEPH = "ceph:s3"
_SOURCE_SUFFIX = ":s3"
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
_MARKER = "DeleteMarkerCreated"


def parse_record(record: object) -> UseReport | IgnoredRecord:
    """Return the use that a record tells of, or why it tells of none.

    A new marker hides the newest object of its key, whatever its version, so that the deletion has
    no version. Raises MalformedRecord.
    """
    if not isinstance(record, dict):
        raise MalformedRecord("Records")
    source = fields.required_text(record, "eventSource")
    if not source.endswith(_SOURCE_SUFFIX):
        raise MalformedRecord("eventSource")
    name = fields.required_text(record, "eventName").removeprefix("s3:")
    if name == "ObjectCreated:Copy":
        return "copy"
    event = _EVENTS.get(name)
    if event is None:
        return "other_event"
    return _report(record, event, is_marker=name.endswith(_MARKER), is_ceph=source == _CEPH)


def _report(
    record: Mapping[str, Any], event: Event, *, is_marker: bool, is_ceph: bool
) -> UseReport:
    s3 = fields.nested(record, "s3")
    stored = fields.nested(s3, "object")
    is_stored = event != "deleted"
    return UseReport(
        event=event,
        source="event",
        bucket=fields.required_text(fields.nested(s3, "bucket"), "name"),
        object_key=fields.object_key(stored, is_encoded=not is_ceph),
        grant_id=_grant_id(stored) if is_stored else None,
        occurred_at=fields.moment(record, "eventTime"),
        size=fields.size(stored) if is_stored else None,
        etag=fields.etag(stored, "eTag") if is_stored else None,
        content_type=fields.text(stored, "contentType", 255) if is_stored else None,
        sequencer="" if is_ceph else fields.sequencer(stored),
        version=None if is_marker else fields.version(stored, "versionId"),
        request_id=fields.text(fields.nested(record, "responseElements"), "x-amz-request-id"),
        remote_address=_remote_address(record),
        user_agent=fields.text(fields.nested(record, "source"), "userAgent"),
    )


def _remote_address(record: Mapping[str, Any]) -> str | None:
    parameters, source = fields.nested(record, "requestParameters"), fields.nested(record, "source")
    return fields.text(parameters, "sourceIPAddress", 64) or fields.text(source, "host", 64)


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
