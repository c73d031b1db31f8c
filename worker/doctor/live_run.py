"""Runs the live checks against one bucket profile, and deletes what they wrote."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Literal

from worker.aws.credentials import CredentialCache
from worker.aws.s3_clients import S3Clients
from worker.aws.storage_requests import StorageRequest, StorageResponse
from worker.core.role_session import role_session
from worker.core.signing_context import Validity
from worker.core.sigv4 import Credentials
from worker.core.tenant_config import Bucket
from worker.doctor.live_checks import (
    FORM_CHECKS,
    LINK_CHECKS,
    MULTIPART_CHECKS,
    PUT_CHECKS,
    LiveCheck,
)
from worker.doctor.live_probe import (
    FIRST_FAILED,
    VERSION_HEADER,
    Finding,
    Leftovers,
    LiveGrants,
    Outcome,
    Probe,
    StepFailed,
    Verdict,
    describe_answer,
    judge_misuse,
    judge_use,
)
from worker.errors import Malformed, Transient

LIVE_CHECKS: tuple[LiveCheck, ...] = (*PUT_CHECKS, *LINK_CHECKS, *FORM_CHECKS, *MULTIPART_CHECKS)
"""All checks. The first stores an object; if it fails, the others are not tried."""

MAX_DELETE_SECONDS = 15.0
"""The time in seconds that the deletion takes at most, beside the request that is under way."""

DELETE_ACTIONS = ("s3:AbortMultipartUpload", "s3:DeleteObject", "s3:DeleteObjectVersion")
_SETTLE_SECONDS = 3.0  # for requests that were under way when the run was interrupted


class Deleter:
    """Deletes leftovers with the credentials of a bucket profile, or a session of its role.

    The session is another one than that which signs: that one may delete nothing.
    """

    def __init__(
        self,
        s3: S3Clients,
        credentials: CredentialCache,
        bucket: Bucket,
        prefix: str,
        now: Callable[[], datetime],
    ) -> None:
        self._s3 = s3
        self._credentials = credentials
        self._bucket = bucket
        self._prefix = prefix
        self._now = now

    def delete(
        self,
        leftovers: Leftovers,
        send: Callable[[StorageRequest], StorageResponse],
        clock: Callable[[], float] = time.monotonic,
    ) -> Iterator[str]:
        """Delete everything. Yield a line for each object or upload that could not be deleted."""
        deadline = clock() + MAX_DELETE_SECONDS
        for key, versions in tuple(leftovers.versions.items()):
            for query in [{"versionId": version} for version in versions] or [{}]:
                problem = self._attempt(send, key, query, deadline, clock)
                if problem:
                    yield f"{key}: {problem}"
        for upload_id, key in tuple(leftovers.uploads.items()):
            problem = self._attempt(send, key, {"uploadId": upload_id}, deadline, clock)
            if problem:
                yield f"an upload of {key}: {problem}"
        for key in leftovers.unknown_uploads:
            yield f"an upload of {key}: storage never said whether it started one"

    def _attempt(
        self,
        send: Callable[[StorageRequest], StorageResponse],
        key: str,
        query: Mapping[str, str],
        deadline: float,
        clock: Callable[[], float],
    ) -> str | None:
        if clock() > deadline:
            return "not tried, because storage took too long"
        try:
            response = send(self._request(key, query))
            version = response.headers.get(VERSION_HEADER)
            if version and "versionId" not in query and "uploadId" not in query:
                # In a versioned bucket, this has only added a delete marker.
                response = send(self._request(key, {"versionId": version}))
        except (Malformed, Transient) as error:
            return str(error)
        is_gone = response.is_success or response.status == HTTPStatus.NOT_FOUND
        return None if is_gone else describe_answer(response)

    def _request(self, key: str, query: Mapping[str, str]) -> StorageRequest:
        now = self._now()
        validity = Validity(now.replace(microsecond=0), 300, "request")
        context = self._s3.signing_context(self._bucket, self._load_credentials(now), validity)
        return StorageRequest("DELETE", context.signer_for("DELETE").sign(key, query).url)

    def _load_credentials(self, now: datetime) -> Credentials:
        session, role = None, self._bucket.role_arn
        if role is not None:
            session = role_session(role, self._bucket, "doctor-delete", (self._prefix,))
            policy = json.loads(session.policy)
            policy["Statement"][0]["Action"] = DELETE_ACTIONS
            session = replace(session, policy=json.dumps(policy, separators=(",", ":")))
        profile = self._bucket.profile
        return self._credentials.get(profile, session, now, timedelta(minutes=5))


@dataclass
class LiveRun:
    """One run: its findings come from `findings`; `delete` must be called in any case."""

    probe: Probe
    deleter: Deleter
    checks: tuple[LiveCheck, ...] = LIVE_CHECKS
    verdicts: dict[tuple[str, str], Verdict] = field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        """Run each check in turn."""
        for check in self.checks:
            finding = self._examine(check)
            self.verdicts[check.grant, check.name] = finding.verdict
            yield finding

    def delete(self) -> list[str]:
        """Delete what was written. Return a line for each thing that is left."""
        self.probe.wait_for_calls(_SETTLE_SECONDS)
        return list(self.deleter.delete(self.probe.leftovers, self.probe.send_delete))

    def _examine(self, check: LiveCheck) -> Finding:
        reason, finding = self._skip_reason(check), _untried(check)
        if reason:
            return finding._replace(note=reason)
        try:
            outcome = check.act(self.probe)
        except StepFailed as failure:
            verdict, words = judge_use(Outcome(failure.response))
            note = f"{failure.step}: {words}"
            return finding._replace(
                verdict=verdict, answer=describe_answer(failure.response), note=note
            )
        except (Malformed, Transient) as error:
            return finding._replace(verdict="error", note=str(error))
        verdict, note = judge_misuse(outcome.response) if check.is_misuse else judge_use(outcome)
        answer = describe_answer(outcome.response)
        return finding._replace(verdict=verdict, answer=answer, note=note)

    def _skip_reason(self, check: LiveCheck) -> str:
        first = self.checks[0]
        if self.verdicts.get((first.grant, first.name), "ok") != "ok":
            return FIRST_FAILED
        if check.needs is not None and self.verdicts.get(check.needs) != "ok":
            return f"proves nothing, because {check.needs[1]!r} failed"
        return check.condition(self.probe.grants.bucket)


@dataclass(frozen=True)
class LiveServices:
    """The dependencies of runs: credentials and targets, those for the deletion, HTTP and time."""

    s3: S3Clients
    deletion_credentials: CredentialCache
    send: Callable[[StorageRequest, float], StorageResponse]
    now: Callable[[], datetime]


def prepare_run(services: LiveServices, bucket: Bucket, prefix: str) -> LiveRun:
    """Prepare a run whose objects are under a new prefix below `prefix`.

    Raises Malformed or Transient if boto3 cannot sign for the bucket profile.
    """
    s3, now = services.s3, services.now
    own_prefix = f"{prefix}{secrets.token_hex(8)}/"
    grants = LiveGrants(s3, bucket, own_prefix, now)
    probe = Probe(grants, s3.target(bucket), services.send)
    # The whole prefix: one check tries to write beside its own one.
    deleter = Deleter(s3, services.deletion_credentials, bucket, prefix, now)
    return LiveRun(probe, deleter)


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
