"""Decides on uses: the verdict on a report, the state of a grant, the settlement of slots."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Literal, NamedTuple

from worker.audit.grant_states import STORING, Verdict
from worker.rules.issued_grants import SLOT_KINDS
from worker.shared.reported_values import CLOCK_SKEW
from worker.uses.use_reports import UsedGrant, UseReport, plain_name

Ignored = Literal["other_key", "other_kind", "other_signer", "before_issue"]
"""The reasons for which a report is no use of the grant that it names.

other_key: the object has another key or bucket, as one that was copied together with its metadata.
other_kind: a grant of this kind cannot cause such an event.
other_signer: another access key signed the URL: whoever may sign one can add any grant's id.
before_issue: it is older than the grant.
"""


_MAX_PROBLEM = 200

# The default of requests. SeaweedFS stores a type that it guesses from the object key instead.
_UNKNOWN_TYPE = "application/octet-stream"


class Judgement(NamedTuple):
    """The verdict on a use, and for a mismatched one the terms of the grant that it breaks."""

    verdict: Verdict
    problem: str | None = None


def judge(report: UseReport, grant: UsedGrant) -> Judgement | Ignored:
    """Compare a report with its grant. The same report always gets the same verdict."""
    ignored = _ignored(report, grant)
    if ignored is not None:
        return ignored
    if report.event in STORING:
        problems = "; ".join(_mismatches(report, grant))
        if problems:
            return Judgement("mismatched", problems[:_MAX_PROBLEM])
    if report.event != "deleted" and is_late(report.occurred_at, grant.expires_at):
        return Judgement("late")
    return Judgement("as_granted")


def _ignored(report: UseReport, grant: UsedGrant) -> Ignored | None:
    if not grant.is_key(report.object_key) or not _is_bucket(report, grant):
        return "other_key"
    if not _can_cause(grant.kind, report.event):
        return "other_kind"
    if grant.access_keys and not report.access_keys <= grant.access_keys:
        return "other_signer"
    if report.occurred_at < grant.issued_at - CLOCK_SKEW:
        return "before_issue"
    return None


def _is_bucket(report: UseReport, grant: UsedGrant) -> bool:
    if report.bucket in grant.real_buckets:
        return True
    # A line of a log does not say which server wrote it.
    return report.source == "log" and report.bucket in map(plain_name, grant.real_buckets)


def is_late(occurred_at: datetime, expires_at: datetime) -> bool:
    """Return true if a use is later than the end of its grant, whatever else its verdict says."""
    return occurred_at > expires_at + CLOCK_SKEW


def _can_cause(kind: str, event: str) -> bool:
    match event:
        case "stored":
            return kind in SLOT_KINDS and kind != "multipart"
        case "completed" | "aborted":
            return kind == "multipart"
        case "downloaded":
            return kind == "download"
        case _:
            return kind in SLOT_KINDS


def _mismatches(report: UseReport, grant: UsedGrant) -> Iterator[str]:
    low, high = grant.size_range
    size = report.size
    if size is not None and (size < low or (high is not None and size > high)):
        allowed = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        yield f"size: {size:,} bytes, granted {allowed}"
    granted = grant.terms.get("content_type") or _UNKNOWN_TYPE
    if report.content_type is not None and not _is_type(report.content_type, granted):
        yield f"content_type: {report.content_type}, granted {granted}"
    checksum = grant.detail.get("checksum")
    if report.checksum is not None and isinstance(checksum, dict):
        expected = f"{checksum.get('algorithm')}:{checksum.get('value')}"
        is_same_algorithm = report.checksum.partition(":")[0] == checksum.get("algorithm")
        if is_same_algorithm and report.checksum != expected:
            yield "checksum: another one than granted"


def _is_type(found: str, granted: str) -> bool:
    found, granted = found.lower(), granted.lower()
    if granted == _UNKNOWN_TYPE:
        return True
    return _is_of_family(found, granted[:-1]) if granted.endswith("/*") else found == granted


def _is_of_family(found: str, family: str) -> bool:
    """Return true if a type that the client chose begins as granted, and each of a list does.

    Browsers take the last of a list, as video/mp4,text/html, and leave out what is no type, as the
    second codec of video/webm;codecs=vp8,opus. RGW and SeaweedFS store lists.
    """
    first, *others = (each.partition(";")[0].strip() for each in found.split(","))
    return first.startswith(family) and all(
        each.startswith(family) for each in others if "/" in each
    )


def use_fingerprint(report: UseReport, grant: UsedGrant) -> bytes:
    """Return the bytes that identify a use: the same for each source and each report of it.

    A stored object is identified by its ETag and version, a download by the id of its request, an
    abort by its grant, and a deletion by what it deletes.
    """
    if report.event == "downloaded":
        marks = [report.request_id or f"{report.occurred_at.isoformat()} {report.remote_address}"]
    elif report.event == "deleted":
        marks = [report.version or "", report.sequencer or report.occurred_at.isoformat()]
    else:
        marks = [report.etag or "", report.version or ""]
        if report.object_key != grant.object_key:  # of a form that leaves the name to the client
            marks.append(report.object_key)
    identity = (grant.tenant, grant.batch_id, str(grant.item_number), report.event, *marks)
    return sha256("\0".join(identity).encode()).digest()


_MAX_BYTES = 2**63 - 1  # what the column holds


class SettledChunk(NamedTuple):
    """The numbers of the items that stored nothing, the bytes used, and those to be given back."""

    unused: Sequence[int]
    used_bytes: int
    returned_bytes: int


def settle_chunk(
    grants: Iterable[UsedGrant],
    stored: Mapping[int, int | None],
    unclear: Collection[int],
    reserved_bytes: int,
) -> SettledChunk:
    """Settle a chunk: each item keeps what it stored, and the rest of its reservation is returned.

    stored has the size of the largest object that each item stored, None if it is not known.
    unclear are items that may have stored something else. They keep their whole reservation, and so
    do items of unknown size, and forms whose client chooses the names of any number of objects.
    reserved_bytes are what the chunk still has reserved: at most these are returned.
    """
    unused: list[int] = []
    used = kept = 0
    for grant in grants:
        number, reserved = grant.item_number, grant.reserved_bytes
        size = stored.get(number)
        used += max(size or 0, 0)
        if not grant.has_known_key or number in unclear:
            kept += reserved
        elif number not in stored:
            unused.append(number)
        else:
            kept += kept_bytes(size, reserved)
    return SettledChunk(unused, min(used, _MAX_BYTES), max(reserved_bytes - kept, 0))


def kept_bytes(size: int | None, reserved_bytes: int) -> int:
    """Return what an item keeps of its reservation: the size of its largest object, if known."""
    return reserved_bytes if size is None else min(max(size, 0), reserved_bytes)
