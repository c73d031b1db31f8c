"""Reads downloads from the access logs of storage.

AWS's server access log (AWS: LogFormat.html) is read, also as Ceph RGW's bucket logging writes it,
and RGW's operations log (Ceph: radosgw/config-ref, "rgw enable ops log"), which has one JSON object
a line: up to Ceph Reef without the object's key, and on some backends without the id of the
request. SeaweedFS's audit log does not contain the query of a request, and so no grant.
"""

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote

from worker.shared.reported_values import MAX_SIZE
from worker.uses.use_reports import UseReport

MAX_LINE_BYTES = 64 * 1024
"""A longer line is malformed: S3 accepts a request line of 8 KiB at most."""

Skipped = Literal["other", "failed", "unsigned", "malformed"]
"""The reasons for which a line is no download.

other: it is another operation, or names no grant. failed: storage refused the request. unsigned:
the request has no signature, so that anyone could have added the id of a grant to a public URL.
malformed: it is cut off, too long, or of another format.
"""

_GRANT_ID = "x-grant-id"
_IN_LINE = _GRANT_ID.encode()
# Storage accepts the name also with some of its characters percent-encoded.
_has_encoded_character = re.compile(rb"%(?:2[Dd]|6[1479Ee]|7[248])").search
_CREDENTIAL = "x-amz-credential"
_SIGNERS = frozenset({_CREDENTIAL, "awsaccesskeyid"})  # of SigV4 and SigV2
_OPERATIONS = frozenset({"REST.GET.OBJECT", "REST.HEAD.OBJECT", "get_obj", "stat_obj"})
_SUCCESS = frozenset({"200", "206"})
_SIGNED_QUERY = "QueryString"
_ANONYMOUS = "anonymous"  # RGW's user of requests without a signature
# With the first of them, storage checks the second, and refuses the request if it is not valid.
_SIGNATURE = frozenset({"X-Amz-Algorithm", "X-Amz-Signature"})
# The fields after the time in which S3 answered may be missing: RGW and old logs have fewer. The
# client chooses the URL, the referrer and the user agent, and storage escapes no quote in them. A
# URL has no spaces, and no field after the user agent has quotes: only so is it certain where they
# end.
_LINE = re.compile(
    r"(?P<owner>\S+) (?P<bucket>\S+) \[(?P<time>[^\]]+)\] (?P<address>\S+) (?P<requester>\S+)"
    r" (?P<request_id>\S+) (?P<operation>\S+) (?P<object_key>\S+)"
    r" \"(?P<request>\S+(?: \S+){0,2})\" (?P<status>\S+) (?P<error>\S+) (?P<sent>\S+)"
    r" (?P<size>[0-9]+|-) (?P<total>\S+) (?P<turn>\S+)(?: \"(?P<agents>.*)\"(?P<rest>[^\"]*))?",
    re.ASCII,
)
_AUTH_FIELD = 4  # of the fields after the user agent: version id, host id, signature, cipher
_JSON_FIELDS = {
    "bucket": "bucket",
    "time": "time",
    "remote_addr": "address",
    "operation": "operation",
    "uri": "request",
    "http_status": "status",
    "bytes_sent": "sent",
    "user_agent": "agent",
}
_OPTIONAL_JSON_FIELDS = {"object": "object_key", "trans_id": "request_id"}
_NAMES_IN_JSON = [f'"{name}"'.encode() for name in _JSON_FIELDS]
# The fields before those that the client chooses.
_begins_as_log = re.compile(rb"\S+ \S+ \[[0-9]{2}/[A-Z][a-z]{2}/[0-9]{4}:[^\]]+\] \S+ ").match
_is_number = re.compile(r"[0-9]{1,16}").fullmatch
# Only at the start of the target: a search at each letter of a long word takes its length squared.
_remove_origin = partial(re.compile(r"\A[A-Za-z]++://[^/]*+").sub, "")


def is_log_line(line: bytes) -> bool:
    """Return true if a line is of an access log that can be read here, whatever it reports."""
    if line.startswith(b"{"):
        return all(name in line for name in _NAMES_IN_JSON)
    return _begins_as_log(line) is not None


def read_line(line: bytes) -> UseReport | Skipped:
    """Return the download that a line of an access log reports, or why it reports none."""
    if _IN_LINE not in line and not _has_encoded_character(line):
        return "other"
    if len(line) > MAX_LINE_BYTES:
        return "malformed" if _IN_LINE in line else "other"
    text = _storable(line.decode(errors="replace").strip())
    try:
        return _read_json(text) if text.startswith("{") else _read_text(text)
    # A time that is none, JSON that is cut off, or that contains itself too often.
    except (ValueError, OverflowError, RecursionError):
        return "malformed"


def _storable(text: str) -> str:
    """Replace what no database stores: NUL, and surrogates, which JSON can have."""
    if text.isascii() and "\0" not in text:
        return text
    return text.encode(errors="replace").decode().replace("\0", "\N{REPLACEMENT CHARACTER}")


def _read_text(text: str) -> UseReport | Skipped:
    match = _LINE.fullmatch(text)
    if match is None:
        return "malformed"
    values: dict[str, Any] = match.groupdict()
    fields = (values["rest"] or "").split()
    values["is_signed"] = (
        fields[_AUTH_FIELD] == _SIGNED_QUERY if len(fields) > _AUTH_FIELD else None
    )
    values["agent"] = (values["agents"] or "").partition('" "')[2]
    return _report(
        values, lambda time: datetime.strptime(time, "%d/%b/%Y:%H:%M:%S %z"), _decode_key
    )


def _read_json(text: str) -> UseReport | Skipped:
    entry = json.loads(text)
    if not isinstance(entry, dict) or any(
        not isinstance(entry.get(name), str | int) for name in _JSON_FIELDS
    ):
        return "malformed"
    fields = _JSON_FIELDS | _OPTIONAL_JSON_FIELDS
    values: dict[str, Any] = {
        field: _storable(str(entry.get(name, ""))) for name, field in fields.items()
    }
    # RGW writes TENANT/BUCKET for the bucket of a tenant of its own.
    values["bucket"] = values["bucket"].rpartition("/")[2]
    values["is_signed"] = False if entry.get("user") == _ANONYMOUS else None
    # A signature in the headers takes precedence over one in the query, which may be made up.
    values["signer"] = _present(str(entry.get("access_key_id") or ""))
    return _report(values, datetime.fromisoformat, _requested_key)


def _report(
    values: dict[str, Any],
    parse_time: Callable[[str], datetime],
    read_key: Callable[[str, tuple[str, str]], str],
) -> UseReport | Skipped:
    """Return the download of a line. is_signed is None in a format that does not record it."""
    if values["operation"] not in _OPERATIONS:
        return "other"
    words = values["request"].split(" ")  # METHOD TARGET VERSION
    path, _, query_string = words[1 if len(words) > 1 else 0].partition("?")
    parameters = parse_qsl(query_string, keep_blank_values=True)
    query = {name: value for name, value in parameters if value}
    if _GRANT_ID not in query:
        return "other"
    if values["status"] not in _SUCCESS:
        return "failed"
    is_signed = values["is_signed"]
    if not (query.keys() >= _SIGNATURE if is_signed is None else is_signed):
        return "unsigned"
    time = parse_time(values["time"])
    return UseReport(
        event="downloaded",
        source="log",
        bucket=values["bucket"],
        object_key=read_key(values["object_key"], _possible_keys(values["bucket"], path)),
        grant_id=query[_GRANT_ID],
        occurred_at=(time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC),
        size=_sent(values["sent"]),
        request_id=_present(values["request_id"]),
        remote_address=_present(values["address"]),
        user_agent=_present(values["agent"]),
        access_keys=frozenset(_signers(parameters, values.get("signer"))),
    )


def _signers(parameters: list[tuple[str, str]], logged: str | None) -> Iterator[str]:
    """Yield the access key that storage logged, and that of each parameter that names a signer.

    A client that signs a URL itself can repeat the parameter; one with a grant can add none.
    """
    if logged is not None:
        yield logged
    for name, value in parameters:
        access_key, _, scope = value.partition("/")
        # A value of another form was masked by storage, and identifies no key.
        is_masked = name.lower() == _CREDENTIAL and not scope.endswith("aws4_request")
        if name.lower() in _SIGNERS and not is_masked:
            yield access_key


def _sent(text: str) -> int:
    if text == "-":
        return 0
    if not _is_number(text) or int(text) > MAX_SIZE:
        raise ValueError("not a number of bytes")
    return int(text)


def _present(text: str) -> str | None:
    return None if text in {"", "-"} else text


def _decode_key(logged: str, keys: tuple[str, str]) -> str:
    """Return the object key of a logged one, which is URL-encoded once or twice.

    The path of the request, which is encoded once, decides.
    """
    once = unquote(logged)
    return next((key for key in (once, unquote(once)) if key in keys), once)


def _requested_key(logged: str, keys: tuple[str, str]) -> str:
    """Return the object key of a request. It is logged as it is, or not at all.

    Without it, a path that begins with the bucket's name is taken for one of path style.
    """
    path, without_bucket = keys
    return path if logged == path else without_bucket


def _possible_keys(bucket: str, target_path: str) -> tuple[str, str]:
    """Return the object key that the path of a request has in virtual-host and in path style."""
    path = unquote(_remove_origin(target_path)).removeprefix("/")
    return path, path.removeprefix(f"{bucket}/")
