"""Reads downloads from the access logs of storage.

AWS's server access log (AWS: LogFormat.html) is read, also as Ceph RGW's bucket logging writes it,
and RGW's operations log (Ceph: radosgw/config-ref, "rgw enable ops log"), which has one JSON object
a line. SeaweedFS's audit log does not contain the query of a request, and so no grant.
"""

import json
import re
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from worker.core.uses.reports import UseReport

MAX_LINE_BYTES = 64 * 1024
"""A longer line is malformed: S3 accepts a request line of 8 KiB at most."""

Skipped = Literal["other", "failed", "unsigned", "malformed"]
"""The reasons for which a line is no download.

other: it is another operation, or names no grant. failed: storage refused the request. unsigned:
the request has no signature, so that anyone could have added the id of a grant to a public URL.
malformed: it is cut off, too long, or of another format.
"""

_GRANT_ID = b"x-grant-id="
_OPERATIONS = frozenset({"REST.GET.OBJECT", "REST.HEAD.OBJECT", "get_obj", "stat_obj"})
_SUCCESS = frozenset({"200", "206"})
_SIGNED_QUERY = "QueryString"
# The fields after the time in which S3 answered may be missing: RGW and old logs have fewer.
_LINE = re.compile(
    r"(?P<owner>\S+) (?P<bucket>\S+) \[(?P<time>[^\]]+)\] (?P<address>\S+) (?P<requester>\S+)"
    r" (?P<request_id>\S+) (?P<operation>\S+) (?P<key>\S+) \"(?P<request>[^\"]*)\""
    r" (?P<status>\S+) (?P<error>\S+) (?P<sent>[0-9]+|-) (?P<size>[0-9]+|-) (?P<total>\S+)"
    r" (?P<turn>\S+)(?: \"[^\"]*\"(?: \"(?P<agent>[^\"]*)\"(?P<rest>.*))?)?"
)
_AUTH_FIELD = 4  # of the fields after the user agent: version id, host id, signature, cipher
_TIME_LENGTH = len("06/Feb/2026:00:00:38 +0000")
_MONTHS = (
    *("Jan", "Feb", "Mar", "Apr", "May", "Jun"),
    *("Jul", "Aug", "Sep", "Oct", "Nov", "Dec"),
)
_JSON_FIELDS = {
    "bucket": "bucket",
    "object": "object_key",
    "time": "time",
    "remote_addr": "address",
    "trans_id": "request_id",
    "operation": "operation",
    "uri": "request",
    "http_status": "status",
    "bytes_sent": "sent",
    "user_agent": "agent",
}


def read_line(line: bytes) -> UseReport | Skipped:
    """Return the download that a line of an access log tells of, or why it tells of none."""
    if _GRANT_ID not in line:
        return "other"
    if len(line) > MAX_LINE_BYTES:
        return "malformed"
    text = line.decode(errors="replace").strip()
    try:
        return _read_json(text) if text.startswith("{") else _read_text(text)
    except (ValueError, OverflowError):  # a time that is none, or JSON that is cut off
        return "malformed"


def _read_text(text: str) -> UseReport | Skipped:
    match = _LINE.fullmatch(text)
    if match is None:
        return "malformed"
    values: dict[str, Any] = match.groupdict()
    fields = (values["rest"] or "").split()
    auth = fields[_AUTH_FIELD] if len(fields) > _AUTH_FIELD else "-"
    values["is_signed"] = auth == _SIGNED_QUERY
    values["object_key"] = _object_key(values["key"], values["bucket"], values["request"])
    values["at"] = _parse_time(values["time"])
    return _report(values)


def _parse_time(text: str) -> datetime:
    """Parse a time such as 06/Feb/2026:00:00:38 +0000, in a fifth of strptime's time."""
    if len(text) != _TIME_LENGTH:
        raise ValueError("not a time")
    month = _MONTHS.index(text[3:6]) + 1
    iso = f"{text[7:11]}-{month:02}-{text[:2]}T{text[12:20]}{text[21:]}"
    return datetime.fromisoformat(iso).astimezone(UTC)


def _read_json(text: str) -> UseReport | Skipped:
    entry = json.loads(text)
    if not isinstance(entry, dict) or any(
        not isinstance(entry.get(name), str | int) for name in _JSON_FIELDS
    ):
        return "malformed"
    values: dict[str, Any] = {field: str(entry[name]) for name, field in _JSON_FIELDS.items()}
    values["is_signed"] = False
    at = datetime.fromisoformat(values["time"])
    values["at"] = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return _report(values)


def _report(values: dict[str, Any]) -> UseReport | Skipped:
    if values["operation"] not in _OPERATIONS:
        return "other"
    if values["status"] not in _SUCCESS:
        return "failed"
    query = dict(parse_qsl(urlsplit(_target(values["request"])).query))
    if "x-grant-id" not in query:
        return "other"
    if not values["is_signed"] and "X-Amz-Signature" not in query:
        return "unsigned"
    return UseReport(
        event="downloaded",
        source="log",
        bucket=values["bucket"],
        object_key=values["object_key"],
        grant_id=query["x-grant-id"],
        occurred_at=values["at"],
        size=0 if values["sent"] == "-" else int(values["sent"]),
        request_id=values["request_id"],
        remote_address=_present(values["address"]),
        user_agent=_present(values["agent"]),
    )


def _present(text: str | None) -> str | None:
    return None if text in {None, "", "-"} else text


def _target(request: str) -> str:
    """Return the target of a request line, METHOD TARGET VERSION."""
    words = request.split()
    return words[1] if len(words) > 1 else request


def _object_key(logged: str, bucket: str, request: str) -> str:
    """Return the object key of a logged one, which is URL-encoded once or twice.

    The path of the request, which is encoded once, decides.
    """
    once = unquote(logged)
    twice = unquote(once)
    path = unquote(urlsplit(_target(request)).path).removeprefix("/")
    paths = {path, path.removeprefix(f"{bucket}/")}
    return twice if once not in paths and twice in paths else once
