"""Checks of multipart uploads: parts, completion, abort."""

from collections.abc import Callable

from valetkey.wire.replies import Grant
from worker.net.storage_requests import StorageRequest
from worker.usecases.live_checks.check import GrantName, LiveCheck
from worker.usecases.live_checks.findings import Outcome
from worker.usecases.live_checks.probe import BODY, Probe, put_request
from worker.usecases.live_checks.tampering import with_parameter

_FIRST_PART = b"a" * 5 * 1024**2  # AWS requires that of each part but the last


def _complete(probe: Probe) -> Outcome:
    key = probe.new_key()
    grant, upload = probe.start_multipart(key, len(_FIRST_PART) + len(BODY))
    etags = []
    for number, body in ((1, _FIRST_PART), (2, BODY)):
        response = probe.send(put_request(probe.part(grant, upload, number), body))
        probe.require(f"part {number}", response)
        etags.append(response.headers.get("etag", ""))
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    headers = {"content-type": "application/xml"}
    response = probe.send(StorageRequest("POST", grant.url, headers, body))
    if response.is_success:
        probe.leftovers.uploads.pop(upload.upload.upload_id, None)
    return probe.read_back(response, key, _FIRST_PART + BODY)


def _abort_request(grant: Grant) -> StorageRequest:
    url = grant.multipart.abort_url if grant.multipart else ""
    return StorageRequest("DELETE", url)


def _abort(probe: Probe) -> Outcome:
    grant, upload = probe.start_multipart(probe.new_key(), len(BODY))
    response = probe.send(put_request(probe.part(grant, upload, 1)))
    probe.require("part 1", response)
    return Outcome(probe.send(_abort_request(grant)))


def _part_after_abort(probe: Probe) -> Outcome:
    grant, upload = probe.start_multipart(probe.new_key(), len(BODY))
    part = probe.part(grant, upload, 1)
    aborted = probe.send(_abort_request(grant))
    probe.require("the abort", aborted)
    return Outcome(probe.send(put_request(part)))


def _larger_part(probe: Probe) -> Outcome:
    grant, upload = probe.start_multipart(probe.new_key(), len(BODY))
    return Outcome(probe.send(put_request(probe.part(grant, upload, 1), BODY * 2)))


def _another_part(probe: Probe) -> Outcome:
    grant, upload = probe.start_multipart(probe.new_key(), len(BODY))
    part = probe.part(grant, upload, 1)
    url = with_parameter(part.url, "partNumber", "2")
    headers = {**part.headers, "content-length": str(len(BODY))}
    return Outcome(probe.send(StorageRequest("PUT", url, headers, BODY)))


def _misuse(name: str, act: Callable[[Probe], Outcome]) -> LiveCheck:
    needs: tuple[GrantName, str] = ("multipart", "one part, aborted")
    return LiveCheck("multipart", name, is_misuse=True, act=act, needs=needs)


MULTIPART_CHECKS = (
    LiveCheck("multipart", "two parts, completed", is_misuse=False, act=_complete),
    LiveCheck("multipart", "one part, aborted", is_misuse=False, act=_abort),
    _misuse("larger part", _larger_part),
    _misuse("another part", _another_part),
    _misuse("part after the abort", _part_after_abort),
)
