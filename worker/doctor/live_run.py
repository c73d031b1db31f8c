"""Runs the live checks against one bucket profile, and deletes what they wrote."""

import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from http import HTTPStatus
from typing import Literal

from worker import clock
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
    WITHOUT_FIELD,
    LiveCheck,
)
from worker.doctor.live_trial import (
    FIRST_FAILED,
    VERSION_HEADER,
    Finding,
    Leftovers,
    LiveGrants,
    StepFailed,
    Trial,
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


@dataclass
class LiveRun:
    """One run: its findings come from `findings`; `delete` must be called in any case.

    credentials are those of the deletion. prefix is that of all runs: one check tries to write
    beside the prefix of its own run.
    """

    trial: Trial
    credentials: CredentialCache
    prefix: str
    verdicts: dict[str, Verdict] = field(default_factory=dict)  # of uses, by name

    def findings(self) -> Iterator[Finding]:
        """Run each check in turn."""
        for check in LIVE_CHECKS:
            finding = self._examine(check)
            if not check.is_misuse:
                self.verdicts[check.name] = finding.verdict
            yield finding

    def delete(self) -> list[str]:
        """Delete what was written. Return a line for each thing that is left."""
        self.trial.wait_for_calls(_SETTLE_SECONDS)
        return list(self._delete_all())

    def _examine(self, check: LiveCheck) -> Finding:
        reason, finding = self._skip_reason(check), _untried(check)
        if reason:
            return finding._replace(note=reason)
        try:
            request = check.act(self.trial)
            response = self.trial.send(request)
            problem = (
                check.find_problem(self.trial, request, response) if response.is_success else ""
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
        if self.verdicts.get(LIVE_CHECKS[0].name, "ok") != "ok":
            return FIRST_FAILED
        if check.needs is not None and self.verdicts.get(check.needs) != "ok":
            return f"proves nothing, because {check.needs!r} failed"
        name = check.profile_field
        if name is None or getattr(self.trial.grants.bucket, name):
            return ""
        return WITHOUT_FIELD[name]

    def _delete_all(self) -> Iterator[str]:
        """Delete everything. Yield a line for each object or upload that could not be deleted."""
        leftovers = self.trial.leftovers
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
            response = self.trial.send_delete(self._delete_request(key, query))
            version = response.headers.get(VERSION_HEADER)
            if version and not query:
                # In a versioned bucket, this has only added a delete marker.
                response = self.trial.send_delete(self._delete_request(key, {"versionId": version}))
        except (Malformed, Transient) as error:
            return str(error)
        is_gone = response.is_success or response.status == HTTPStatus.NOT_FOUND
        return None if is_gone else describe_answer(response)

    def _delete_request(self, key: str, query: Mapping[str, str]) -> StorageRequest:
        now = clock.now()
        validity = Validity(now.replace(microsecond=0), 300, "request")
        grants = self.trial.grants
        credentials = self._load_credentials(grants.bucket, now)
        context = grants.s3.signing_context(grants.bucket, credentials, validity)
        return StorageRequest("DELETE", context.signer_for("DELETE").sign(key, query).url)

    def _load_credentials(self, bucket: Bucket, now: datetime) -> Credentials:
        """Return those of the profile, or a session of its role that may delete: no other may."""
        session, role = None, bucket.role_arn
        if role is not None:
            session = role_session(role, bucket, "doctor-delete", (self.prefix,))
            policy = json.loads(session.policy)
            policy["Statement"][0]["Action"] = DELETE_ACTIONS
            session = replace(session, policy=json.dumps(policy, separators=(",", ":")))
        return self.credentials.get(bucket.profile, session, now, timedelta(minutes=5))


def _deletions(leftovers: Leftovers) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yield a name for people, the object key and the query of each request."""
    for key, versions in tuple(leftovers.versions.items()):
        for query in [{"versionId": version} for version in versions] or [{}]:
            yield key, key, query
    for upload_id, key in tuple(leftovers.uploads.items()):
        yield f"an upload of {key}", key, {"uploadId": upload_id}


def prepare_run(
    s3: S3Clients,
    deletion_credentials: CredentialCache,
    send: Callable[[StorageRequest, float], StorageResponse],
    bucket: Bucket,
    prefix: str,
) -> LiveRun:
    """Prepare a run whose objects are under a new prefix below `prefix`.

    Raises Malformed or Transient if boto3 cannot sign for the bucket profile.
    """
    grants = LiveGrants(s3, bucket, f"{prefix}{secrets.token_hex(8)}/")
    trial = Trial(grants, Leftovers(s3.target(bucket)), send)
    return LiveRun(trial, deletion_credentials, prefix)


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
