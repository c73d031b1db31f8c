"""The live checks: uses and misuses of links, PUTs, forms and multipart uploads, and their runs.

A run tries all checks in one bucket profile, and deletes what they wrote.
"""

import json
import secrets
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http import HTTPStatus
from typing import Any, Literal, NamedTuple

from valetkey.signing.signing_context import Validity
from valetkey.signing.sigv4 import Credentials
from valetkey.wire.messages import Item
from valetkey.wire.replies import Grant
from valetkey.wire.terms import Checksum, Download
from worker import clock
from worker.aws.credentials import CredentialCache
from worker.aws.s3_clients import S3Clients
from worker.errors import Malformed, Transient
from worker.live.live_trial import (
    BODY,
    CONTENT_TYPE_FAMILY,
    FIRST_FAILED,
    VERSION_HEADER,
    Finding,
    Leftovers,
    LiveGrants,
    StepFailed,
    Trial,
    Verdict,
    change_last,
    describe_answer,
    form_request,
    get_request,
    judge_misuse,
    judge_use,
    put_request,
    with_changed_signature,
    with_field,
    with_parameter,
    without_parameters,
)
from worker.rules.policy_rules import STORED_METADATA_BYTES
from worker.rules.role_session import role_session
from worker.rules.tenant_config import Bucket
from worker.shared.storage_requests import StorageRequest, StorageResponse

GrantName = Literal["link", "put", "form", "multipart", "session"]
ProfileField = Literal["post", "owner", "role_arn"]
WITHOUT_FIELD: dict[ProfileField, str] = {
    "post": "the profile has post = false",
    "owner": "the profile has no owner",
    "role_arn": "the profile has no role_arn",
}
"""Why checks are not tried that need a field of the bucket profile."""

Act = Callable[[Trial], StorageRequest]
FindProblem = Callable[[Trial, StorageRequest, StorageResponse], str]


class LiveCheck(NamedTuple):
    """One request that storage has to accept (a use), or to refuse (a misuse).

    name: unique among the checks of the same grant, and among all uses.
    act: returns the request, after what it requires was sent.
    needs: of a misuse, the name of the use without which its refusal proves nothing.
    profile_field: a field of the bucket profile without which it is not tried.
    find_problem: of a use, returns what is wrong although storage accepted it.
    """

    grant: GrantName
    name: str
    act: Act
    needs: str | None = None
    profile_field: ProfileField | None = None
    find_problem: FindProblem = lambda *_: ""

    @property
    def is_misuse(self) -> bool:
        """True if storage has to refuse the request."""
        return self.needs is not None


_STRANGERS = ("111111111111", "222222222222")  # account ids: at least one does not own the bucket
EXPIRED_SECONDS = 1.5
"""Seconds after the end of a grant at which it is tried: clocks differ by parts of a second."""


def _wrong_bytes(body: bytes) -> FindProblem:
    """Compare the object that a request stored with the bytes that were sent."""

    def find_problem(trial: Trial, request: StorageRequest, _response: StorageResponse) -> str:
        key = trial.leftovers.key_of(request)
        stored = trial.send(get_request(trial.download(key)))
        is_same = stored.is_success and stored.body == body
        return "" if is_same else "the stored object has other bytes"

    return find_problem


def _wrong_download(_trial: Trial, _request: StorageRequest, response: StorageResponse) -> str:
    disposition = response.headers.get("content-disposition", "")
    if response.body != BODY:
        return "the response has other bytes than the object"
    is_signed = disposition.startswith("attachment") and "report.txt" in disposition
    return "" if is_signed else "the file name is not the signed one"


def _missing_grant_id(_trial: Trial, _request: StorageRequest, response: StorageResponse) -> str:
    has_id = response.headers.get("x-amz-meta-grant-id", "").endswith(".0")
    return "" if has_id else "the object does not show its grant id"


def _get(**terms: Any) -> Act:
    return lambda trial: get_request(trial.download(trial.store(), **terms))


def _get_from_stranger(trial: Trial) -> StorageRequest:
    owner = next(account for account in _STRANGERS if account != trial.grants.bucket.owner)
    terms = Download(**trial.grants.common_terms, check_owner=True)
    return get_request(trial.grants.issue(terms, Item(key=trial.store()), owner=owner))


def _with_url(change: Callable[[str], str]) -> Act:
    return lambda trial: StorageRequest(
        "GET", change(trial.download(trial.store(), filename="report.txt").url)
    )


def _with_value(name: str, value: str) -> Act:
    return _with_url(lambda url: with_parameter(url, name, value))


def _without(name: str) -> Act:
    return _with_url(lambda url: without_parameters(url, name))


def _get_another_key(trial: Trial) -> StorageRequest:
    key, other_key = trial.store(), trial.store()
    path, _, query = trial.download(key).url.partition("?")
    other_path = path.removesuffix(key.rpartition("/")[2]) + other_key.rpartition("/")[2]
    return StorageRequest("GET", f"{other_path}?{query}")


def _with_method(method: str, body: bytes | None = None) -> Act:
    return lambda trial: StorageRequest(method, trial.download(trial.store()).url, body=body)


def _wait_for_end(grant: Grant) -> None:
    """Wait until a grant has expired, by the clock of this machine."""
    left = (grant.expires_at - datetime.now(UTC)).total_seconds() + EXPIRED_SECONDS
    time.sleep(max(0.0, left))


def _get_after_end(trial: Trial) -> StorageRequest:
    grant = trial.download(trial.store(), expires_in=1)
    _wait_for_end(grant)
    return get_request(grant)


def _link_misuse(name: str, act: Act, profile_field: ProfileField | None = None) -> LiveCheck:
    return LiveCheck("link", name, act, "GET", profile_field)


LINK_CHECKS = (
    LiveCheck("link", "GET", _get(filename="report.txt"), find_problem=_wrong_download),
    LiveCheck("link", "HEAD", _get(method="HEAD"), find_problem=_missing_grant_id),
    LiveCheck(
        "link", "GET that names the bucket's owner", _get(check_owner=True), profile_field="owner"
    ),
    _link_misuse("of another object", _get_another_key),
    _link_misuse("with another file name", _with_value("response-content-disposition", "inline")),
    _link_misuse("with a parameter added", _with_value("response-cache-control", "no-store")),
    _link_misuse("with a later end", _with_value("X-Amz-Expires", "900")),
    _link_misuse("without its grant id", _without("x-grant-id")),
    _link_misuse("with another signature", _with_url(with_changed_signature)),
    _link_misuse("without a signature", _without("X-Amz-S*")),
    _link_misuse("without any parameter", _with_url(lambda url: url.partition("?")[0])),
    _link_misuse("used for PUT", _with_method("PUT", BODY)),
    _link_misuse("used for DELETE", _with_method("DELETE")),
    _link_misuse("after its end", _get_after_end),
    _link_misuse("that names another owner", _get_from_stranger),
    _link_misuse(
        "without its owner header",
        lambda trial: StorageRequest("GET", trial.download(trial.store(), check_owner=True).url),
        "owner",
    ),
    LiveCheck(
        "session",
        "link without its session token",
        _without("X-Amz-Security-Token"),
        "GET",
        "role_arn",
    ),
)


OTHER_BODY = BODY.swapcase()
"""As many other bytes."""

# A grant id is a UUID, a dot and an item's number, under the name grant-id.
_GRANT_ID_BYTES = len("grant-id") + 36 + len(".0")
_METADATA = {"padding": "x" * (STORED_METADATA_BYTES - _GRANT_ID_BYTES - len("padding"))}
# Twice the limit, so that it makes no difference what else storage counts.
_TOO_MUCH_METADATA = _METADATA | {"more": "x" * STORED_METADATA_BYTES}


_CHECKSUM = Checksum(algorithm="sha256", value=b64encode(sha256(BODY).digest()).decode())


def _put(
    checksum: Checksum | None = None,
    body: bytes = BODY,
    headers: Mapping[str, str] = {},
    **terms: Any,
) -> Act:
    """Send a body and further headers, also those that the grant of BODY does not allow."""
    return lambda trial: put_request(trial.put(trial.new_key(), checksum, **terms), body, headers)


def _put_again(trial: Trial) -> StorageRequest:
    grant = trial.put(trial.new_key(), overwrite=False)
    trial.require("the first PUT", trial.send(put_request(grant)))
    return put_request(grant, OTHER_BODY)


def _put_over_object(trial: Trial) -> StorageRequest:
    grant = trial.put(trial.store(), overwrite=False)
    headers = {name: value for name, value in grant.headers.items() if name != "if-none-match"}
    return StorageRequest("PUT", grant.url, headers, OTHER_BODY)


def _with_metadata(metadata: Mapping[str, str]) -> Act:
    """Send metadata that the service refuses: it keeps the bytes of the longest grant id free."""

    def act(trial: Trial) -> StorageRequest:
        item, terms = Item(key=trial.new_key(), size=len(BODY)), trial.put_terms(metadata=metadata)
        return put_request(trial.grants.sign_unchecked(trial.put_terms(), terms, item))

    return act


def _put_outside_prefix(trial: Trial) -> StorageRequest:
    (prefix,) = trial.grants.prefixes
    item = Item(key=f"{prefix.removesuffix('/')}-outside.txt", size=len(BODY))
    return put_request(trial.grants.sign_unchecked(trial.put_terms(), trial.put_terms(), item))


def _put_copy(trial: Trial) -> StorageRequest:
    source = f"/{trial.grants.bucket.bucket}/{trial.store()}"
    grant = trial.put(trial.new_key())
    return put_request(grant, headers={"x-amz-copy-source": source})


def _put_use(name: str, act: Act) -> LiveCheck:
    return LiveCheck("put", name, act, find_problem=_wrong_bytes(BODY))


def _put_misuse(name: str, act: Act, needs: str = "PUT") -> LiveCheck:
    return LiveCheck("put", name, act, needs)


PUT_CHECKS = (
    _put_use("PUT", _put()),
    _put_use("PUT of a new object", _put(overwrite=False)),
    _put_use("PUT with a SHA-256", _put(_CHECKSUM)),
    LiveCheck("put", "PUT with 2,048 bytes of metadata", _with_metadata(_METADATA)),
    _put_misuse("of a larger file", _put(body=BODY * 2)),
    _put_misuse("of a smaller file", _put(body=BODY[:-1])),
    _put_misuse("of another content type", _put(headers={"content-type": "text/html"})),
    _put_misuse(
        "of other bytes than its SHA-256", _put(_CHECKSUM, OTHER_BODY), "PUT with a SHA-256"
    ),
    _put_misuse("over an object that exists", _put_again, "PUT of a new object"),
    _put_misuse("without If-None-Match", _put_over_object, "PUT of a new object"),
    _put_misuse("with metadata added", _put(headers={"x-amz-meta-added": "yes"})),
    _put_misuse("with an ACL added", _put(headers={"x-amz-acl": "public-read"})),
    _put_misuse("as a copy of another object", _put_copy),
    _put_misuse("with over 2,048 bytes of metadata", _with_metadata(_TOO_MUCH_METADATA)),
    LiveCheck("session", "PUT outside of its prefix", _put_outside_prefix, "PUT", "role_arn"),
)


def _post(checksum: Checksum | None = None, body: bytes = BODY) -> Act:
    return lambda trial: form_request(trial.upload(trial.new_key(), checksum), body)


def _post_after_end(trial: Trial) -> StorageRequest:
    grant = trial.upload(trial.new_key(), expires_in=1)
    _wait_for_end(grant)
    return form_request(grant)


def _post_field(name: str, value: str | None = None, **terms: Any) -> Act:
    """Change a field to a value, or its last character."""

    def act(trial: Trial) -> StorageRequest:
        grant = trial.upload(trial.new_key(), **terms)
        new_value = change_last(grant.fields[name]) if value is None else value
        form = with_field(form_request(grant).form, name, new_value)
        return StorageRequest("POST", grant.url, form=form)

    return act


def _post_type_of_family(content_type: str) -> Act:
    """Choose a type in a form that leaves the choice within a family of types to the client."""
    return _post_field("Content-Type", content_type, content_type=CONTENT_TYPE_FAMILY)


def _form_use(name: str, act: Act) -> LiveCheck:
    return LiveCheck("form", name, act, None, "post", _wrong_bytes(BODY))


def _form_misuse(name: str, act: Act, needs: str = "POST") -> LiveCheck:
    return LiveCheck("form", name, act, needs, "post")


FORM_CHECKS = (
    _form_use("POST", _post()),
    _form_use("POST with a SHA-256", _post(_CHECKSUM)),
    _form_use("POST with a chosen content type", _post_type_of_family("video/mp4")),
    _form_misuse("of a larger file", _post(body=BODY * 3)),
    _form_misuse("of a smaller file", _post(body=BODY[:9])),
    _form_misuse("of another content type", _post_field("Content-Type", "text/html")),
    # A type of the family, and after it one that browsers run scripts of.
    _form_misuse(
        "of a list of content types",
        _post_type_of_family("video/mp4,text/html"),
        "POST with a chosen content type",
    ),
    _form_misuse(
        "of other bytes than its SHA-256", _post(_CHECKSUM, OTHER_BODY), "POST with a SHA-256"
    ),
    _form_misuse("with another key", lambda trial: _post_field("key", trial.new_key())(trial)),
    _form_misuse("with metadata added", _post_field("x-amz-meta-added", "yes")),
    _form_misuse("with an ACL added", _post_field("acl", "public-read")),
    _form_misuse("with another grant id", _post_field("x-amz-meta-grant-id")),
    _form_misuse("with another signature", _post_field("x-amz-signature")),
    _form_misuse("after its end", _post_after_end),
)


_FIRST_PART = b"a" * 5 * 1024**2  # AWS requires that of each part but the last


def _complete_upload(trial: Trial) -> StorageRequest:
    grant, upload = trial.start_multipart(trial.new_key(), len(_FIRST_PART) + len(BODY))
    parts = ""
    for number, body in ((1, _FIRST_PART), (2, BODY)):
        response = trial.send(put_request(trial.part(grant, upload, number), body))
        trial.require(f"part {number}", response)
        etag = response.headers.get("etag", "")
        parts += f"<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"
    body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
    return StorageRequest("POST", grant.url, {"content-type": "application/xml"}, body)


def _wrong_upload(trial: Trial, request: StorageRequest, response: StorageResponse) -> str:
    trial.leftovers.forget_uploads(trial.leftovers.key_of(request))
    return _wrong_bytes(_FIRST_PART + BODY)(trial, request, response)


def _first_part(trial: Trial) -> tuple[Grant, Grant]:
    """Start an upload; return its grant, and that of the only part."""
    grant, upload = trial.start_multipart(trial.new_key(), len(BODY))
    return grant, trial.part(grant, upload, 1)


def _abort_request(grant: Grant) -> StorageRequest:
    url = grant.multipart.abort_url if grant.multipart else ""
    return StorageRequest("DELETE", url)


def _abort_upload(trial: Trial) -> StorageRequest:
    grant, part = _first_part(trial)
    trial.require("part 1", trial.send(put_request(part)))
    return _abort_request(grant)


def _part_after_abort(trial: Trial) -> StorageRequest:
    grant, part = _first_part(trial)
    trial.require("the abort", trial.send(_abort_request(grant)))
    return put_request(part)


def _another_part(trial: Trial) -> StorageRequest:
    request = put_request(_first_part(trial)[1])
    return replace(request, url=with_parameter(request.url, "partNumber", "2"))


_ABORTED = "one part, aborted"
MULTIPART_CHECKS = (
    LiveCheck("multipart", "two parts, completed", _complete_upload, find_problem=_wrong_upload),
    LiveCheck("multipart", _ABORTED, _abort_upload),
    LiveCheck(
        "multipart",
        "larger part",
        lambda trial: put_request(_first_part(trial)[1], BODY * 2),
        _ABORTED,
    ),
    LiveCheck("multipart", "another part", _another_part, _ABORTED),
    LiveCheck("multipart", "part after the abort", _part_after_abort, _ABORTED),
)


LIVE_CHECKS: tuple[LiveCheck, ...] = (*PUT_CHECKS, *LINK_CHECKS, *FORM_CHECKS, *MULTIPART_CHECKS)
"""All checks. The first stores an object; if it fails, the others are not tried."""

MAX_DELETE_SECONDS = 15.0
"""The time in seconds that the deletion takes at most, beside the request that is under way."""

DELETE_ACTIONS = ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion")
_SETTLE_SECONDS = 3.0  # for requests that were under way when the run was interrupted


class LiveRun:
    """One run: its findings come from `findings`; `delete` must be called in any case.

    Its objects are under a new prefix below `prefix`: one check tries to write beside it.
    credentials are those of the deletion. Raises Malformed or Transient if boto3 cannot sign for
    the bucket profile.
    """

    def __init__(
        self,
        s3: S3Clients,
        credentials: CredentialCache,
        send: Callable[[StorageRequest, float], StorageResponse],
        bucket: Bucket,
        prefix: str,
    ) -> None:
        grants = LiveGrants(s3, bucket, f"{prefix}{secrets.token_hex(8)}/")
        self._trial = Trial(grants, Leftovers(s3.target(bucket)), send)
        self._credentials = credentials
        self._prefix = prefix
        self._verdicts: dict[str, Verdict] = {}  # of uses, by name

    def findings(self) -> Iterator[Finding]:
        """Run each check in turn."""
        for check in LIVE_CHECKS:
            finding = self._examine(check)
            if not check.is_misuse:
                self._verdicts[check.name] = finding.verdict
            yield finding

    def delete(self) -> list[str]:
        """Delete what was written. Return a line for each thing that is left."""
        self._trial.wait_for_calls(_SETTLE_SECONDS)
        return list(self._delete_all())

    def _examine(self, check: LiveCheck) -> Finding:
        reason, finding = self._skip_reason(check), _untried(check)
        if reason:
            return finding._replace(note=reason)
        try:
            request = check.act(self._trial)
            response = self._trial.send(request)
            problem = (
                check.find_problem(self._trial, request, response) if response.is_success else ""
            )
            verdict, note = (
                judge_misuse(response) if check.is_misuse else judge_use(response, problem)
            )
        except StepFailed as failure:
            response = failure.response
            verdict, words = judge_use(response)
            note = f"{failure.step}: {words}"
        except (Malformed, Transient) as error:
            return finding._replace(verdict="error", note=str(error))
        return finding._replace(verdict=verdict, answer=describe_answer(response), note=note)

    def _skip_reason(self, check: LiveCheck) -> str:
        if self._verdicts.get(LIVE_CHECKS[0].name, "ok") != "ok":
            return FIRST_FAILED
        if check.needs is not None and self._verdicts.get(check.needs) != "ok":
            return f"proves nothing, because {check.needs!r} failed"
        name = check.profile_field
        if name is None or getattr(self._trial.grants.bucket, name):
            return ""
        return WITHOUT_FIELD[name]

    def _delete_all(self) -> Iterator[str]:
        """Delete everything. Yield a line for each object or upload that could not be deleted."""
        leftovers = self._trial.leftovers
        deadline = time.monotonic() + MAX_DELETE_SECONDS
        for name, key, query in _deletions(leftovers):
            problem: str | None = "not tried, because storage took too long"
            if time.monotonic() <= deadline:
                problem = self._delete_one(key, query)
            if problem:
                yield f"{name}: {problem}"
        for key in leftovers.unknown_uploads:
            yield f"an upload of {key}: storage never said whether it started one"

    def _delete_one(self, key: str, query: Mapping[str, str]) -> str | None:
        try:
            response = self._trial.send_delete(self._delete_request(key, query))
            version = response.headers.get(VERSION_HEADER)
            if version and not query:
                # In a versioned bucket, this has only added a delete marker.
                response = self._trial.send_delete(
                    self._delete_request(key, {"versionId": version})
                )
        except (Malformed, Transient) as error:
            return str(error)
        is_gone = response.is_success or response.status == HTTPStatus.NOT_FOUND
        return None if is_gone else describe_answer(response)

    def _delete_request(self, key: str, query: Mapping[str, str]) -> StorageRequest:
        now = clock.now()
        validity = Validity(now.replace(microsecond=0), 300, "request")
        grants = self._trial.grants
        credentials = self._load_credentials(grants.bucket, now)
        context = grants.s3.signing_context(grants.bucket, credentials, validity)
        return StorageRequest("DELETE", context.signer_for("DELETE").sign(key, query).url)

    def _load_credentials(self, bucket: Bucket, now: datetime) -> Credentials:
        """Return those of the profile, or a session of its role that may delete: no other may."""
        session, role = None, bucket.role_arn
        if role is not None:
            session = role_session(role, bucket, "doctor-delete", (self._prefix,))
            policy = json.loads(session.policy)
            policy["Statement"][0]["Action"] = DELETE_ACTIONS
            session = replace(session, policy=json.dumps(policy, separators=(",", ":")))
        return self._credentials.get(bucket.profile, session, now, timedelta(minutes=5))


def _deletions(leftovers: Leftovers) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield a name for people, the object key and the query of each request."""
    for key, versions in tuple(leftovers.versions.items()):
        for query in [{"versionId": version} for version in versions] or [{}]:
            yield key, key, query
    for upload_id, key in tuple(leftovers.uploads.items()):
        yield f"an upload of {key}", key, {"uploadId": upload_id}


def findings_of_unusable_profile(error: str) -> list[Finding]:
    """Return the findings on a bucket profile that boto3 cannot sign for."""
    first, *others = (_untried(check) for check in LIVE_CHECKS)
    return [
        first._replace(verdict="error", note=error),
        *(finding._replace(note=FIRST_FAILED) for finding in others),
    ]


def deletion_finding(left: Sequence[str]) -> Finding:
    """Return the finding on the deletion, from the lines of what is left."""
    finding = Finding("all", "everything is deleted", "accepted", "ok")
    return finding._replace(verdict="error", note="; ".join(left)) if left else finding


def _untried(check: LiveCheck) -> Finding:
    expected: Literal["accepted", "refused"] = "refused" if check.is_misuse else "accepted"
    return Finding(check.grant, check.name, expected, "not tried")
