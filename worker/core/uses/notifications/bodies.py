"""Reads the body of a message: what storage sent, by itself or through SNS or EventBridge."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from worker.core.uses.notifications import eventbridge
from worker.core.uses.notifications.fields import IgnoredRecord, MalformedRecord
from worker.core.uses.notifications.s3_records import parse_record
from worker.core.uses.reports import UseReport

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
    if eventbridge.is_event(value):
        return _collect([value], eventbridge.parse_event)
    records = value.get("Records")
    if not isinstance(records, list) or len(records) > MAX_RECORDS:
        raise MalformedRecord("Records")
    return _collect(records, parse_record)


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
